package netprobe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"kido/internal/probe"
)

// redis logs in, where a user or a password is given, and asks for INFO, which a Redis
// or Valkey answers also while it loads its dataset. Its life is the run_id, another one
// after each start of the process and no other time.
//
// It speaks RESP itself, two commands of it: the clients that there are allocate what
// a reply says its length is, so that one line of garbage ends the program.
func (p Prober) redis(ctx context.Context, s probe.Spec) probe.Answer {
	l := &link{ctx: ctx, spec: s, protocol: "Redis's protocol"}
	defer l.Close()
	if err := l.open(); err != nil {
		return l.why(err)
	}
	r := resp{l, bufio.NewReader(l)}
	info, err := r.info(s.Options["user"], s.Secret("password"))
	if said, ok := errors.AsType[respError](err); ok {
		return probe.NotReady("connected, but: %s%s", strings.TrimSuffix(said.Error(), "."), redisHint(said))
	}
	if err != nil {
		return l.why(err)
	}
	return judgeRedis(s, info)
}

// redisHint is what to do about an error that not all readers know.
func redisHint(e respError) string {
	if strings.HasPrefix(string(e), "NOPERM") {
		return ": the probe needs +info, on a cluster +cluster|info"
	}
	return ""
}

// judgeRedis says what the fields of INFO mean.
func judgeRedis(s probe.Spec, info map[string]string) probe.Answer {
	if info["loading"] == "1" {
		percent, _, _ := strings.Cut(info["loading_loaded_perc"], ".")
		return probe.NotReady("connected, but: it is loading its dataset (%s %%)", percent)
	}
	if info["cluster_state"] == "fail" {
		return probe.NotReady("connected, but: the cluster is down (CLUSTERDOWN)")
	}
	a := probe.Answer{Ready: true}
	if s.TellsLife() {
		if info["run_id"] == "" {
			return probe.NotReady("connected, but: it does not tell its incarnation: no run_id")
		}
		up, _ := strconv.ParseUint(info["uptime_in_seconds"], 10, 32)
		a = probe.Alive(info["run_id"], time.Duration(up)*time.Second)
	}
	role := info["role"]
	if role == "" && s.Options["role"] != "" { // a sentinel
		return probe.NotReady("connected, but: it tells no role")
	}
	readOnly := ""
	if role == "slave" {
		readOnly = "it is a replica"
	}
	a = weighRole(s, a, role == "slave", readOnly)
	switch {
	case !a.Ready || a.Degraded:
		return a
	case info["master_sync_in_progress"] == "1":
		return a.Degrade("it is fetching its dataset from its primary")
	case info["master_link_status"] == "down":
		return a.Degrade("its link to its primary is down")
	case info["aof_last_write_status"] == "err":
		return a.Degrade("the last write to its append-only file failed: it refuses writes (MISCONF)")
	case info["rdb_last_bgsave_status"] == "err":
		return a.Degrade("the last background save failed: it may refuse writes (MISCONF)")
	}
	return a
}

// resp is a connection that speaks RESP 2, Redis's protocol, as far as commands go
// that answer with a text.
type resp struct {
	*link
	in *bufio.Reader
}

// respError is an error that the server answered with: "NOAUTH Authentication required."
type respError string

func (e respError) Error() string { return string(e) }

// info logs in and asks for all that INFO tells, on a cluster also for its state.
func (r resp) info(user, password string) (map[string]string, error) {
	switch {
	case user != "":
		if _, err := r.do("AUTH", user, password); err != nil {
			return nil, err
		}
	case password != "":
		if _, err := r.do("AUTH", password); err != nil {
			return nil, err
		}
	}
	text, err := r.do("INFO")
	if err == nil && strings.Contains(text, "\ncluster_enabled:1") {
		var more string
		more, err = r.do("CLUSTER", "INFO")
		text += "\n" + more
	}
	info := map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		info[name] = value
	}
	return info, err
}

// do sends one command and reads its answer.
func (r resp) do(command ...string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(command))
	for _, word := range command {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(word), word)
	}
	// A server that is full answers before it is asked and hangs up: what it said is
	// there, also where it does not take this any more.
	_, _ = io.WriteString(r.link, b.String())
	line, err := r.in.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	text, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok || text == "" {
		return "", errNotRESP
	}
	switch kind, text := text[0], text[1:]; kind {
	case '+':
		r.understand()
		return text, nil
	case '-':
		r.understand()
		return "", respError(text)
	case '$':
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil || n > maxTalk {
			return "", errNotRESP
		}
		bulk := make([]byte, n+2)
		if _, err := io.ReadFull(r.in, bulk); err != nil {
			return "", err
		}
		r.understand()
		return string(bulk[:n]), nil
	}
	return "", errNotRESP
}

var errNotRESP = errors.New("an answer is not in RESP")
