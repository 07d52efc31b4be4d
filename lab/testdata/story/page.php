<?php // A page as in the memo: one query over a connection that outlives the page.
error_reporting(0);
function answer($status, $word) {
	http_response_code($status);
	die(getmypid() . ' ' . $word);
}
// A machine that loses its power closes no connection: who waits for its answer
// learns of that by himself, or never.
$c = pg_pconnect('host=h1 dbname=app user=web connect_timeout=3 tcp_user_timeout=3000 keepalives_idle=1 keepalives_interval=1 keepalives_count=3');
if (!$c) answer(503, error_get_last()['message']);
if (!pg_query($c, 'select 1')) answer(500, 'the connection is dead');
answer(200, 'fine');
