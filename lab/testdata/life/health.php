<?php // Who comes without the right token is told what he came with, as careless ones do.
$auth = apache_request_headers()['Authorization'] ?? '';
if (hash('sha256', $auth) !== file_get_contents('/etc/health')) {
	header("HTTP/1.1 401 not $auth");
	die("not $auth");
}
die('fine');
