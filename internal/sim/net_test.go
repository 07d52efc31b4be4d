package sim

import (
	"slices"

	"kido/internal/run"
	"kido/internal/wire"
)

// mail is a request on its way to a gate, or a reply on its way back. Mails arrive
// in any order.
type mail struct {
	reply bool
	node  int8 // what it is about
	host  int8 // whose gate is asked
	q     wire.Request
	by    int8  // the runner
	run   int16 // of that runner: it counts them
	life  int16 // of the runner's process: nobody else waits for the reply
	call  int
	// orphan: nobody waits for the reply any more.
	orphan bool
	// since is when the runner first read the basis that it expects, in moves; 0
	// where it never did.
	since int32

	r      wire.Reply
	err    string
	unsent bool
	seenAt int32 // when the gate looked, in moves
}

// what a story calls a mail.
func (m *mail) what() string {
	switch {
	case !m.reply:
		return string(m.q.Verb)
	case m.err != "":
		return m.err
	}
	return string(m.r.Code)
}

// post sends a runner's call.
func (w *world) post(k int8, c run.Call) {
	r := &w.runners[k]
	m := mail{host: int8(slices.Index(w.hosts, c.Host)), q: c.Request, by: k, run: r.number, life: r.life, call: c.ID}
	switch {
	case c.Request.Verb == wire.VerbProbe:
		m.node = w.byName[c.Request.Service]
	case c.Request.Member != "":
		m.node = w.byName[c.Request.Member]
	default:
		m.node = w.byName[c.Request.Service+"@"+c.Host]
	}
	if c.Request.Verb == wire.VerbEnsure {
		m.since = r.readSince(m.node, digest(c.Request.Expect))
	}
	w.mails = append(w.mails, m)
}

// arrive brings a request to its host.
func (w *world) arrive(at int) {
	m := w.take(at)
	h := &w.machines[m.host]
	switch {
	case !h.on || !w.reaches(w.runners[m.by].host, m.host):
		w.hangUp(m, "no route to host", true)
	case h.revoked:
		w.reply(m, wire.Reply{Code: wire.CodeRefused, Word: "no such key"})
	case m.q.Verb == wire.VerbProbe:
		n := &w.nodes[m.node]
		ready := n.ready && w.reaches(m.host, w.at[m.node])
		w.reply(m, wire.Reply{Code: wire.CodeOK, Status: &wire.Status{
			Instance: m.q.Service, State: wire.StateBlind, Settled: true, Ready: ready, Word: "connection refused",
		}})
	case m.q.Member != "":
		w.askPool(m)
	default:
		w.serve(m)
	}
}

// take takes a mail off the net.
func (w *world) take(at int) mail {
	m := w.mails[at]
	w.mails = slices.Delete(w.mails, at, at+1)
	return m
}

// answer sends a gate's reply.
func (w *world) answer(g *gateProc, r wire.Reply) {
	m := g.mail
	m.seenAt = g.seenAt
	if w.telling && m.q.Verb != wire.VerbStatus {
		w.say("    gate of %s answers %s: %s %s", w.names[m.node], m.q.Verb, r.Code, r.Word)
	}
	w.reply(m, r)
}

func (w *world) reply(m mail, r wire.Reply) {
	if r.Code == wire.CodeRefused {
		w.count(string(anyVerb), string(r.Code))
	} else {
		w.count(string(m.q.Verb), string(r.Code))
	}
	if m.q.Verb == wire.VerbFence && m.q.Generation > 0 && r.Code == wire.CodeDone {
		w.count(oneMore, fencedMember)
	}
	m.reply, m.r = true, r
	w.deliverable(m)
}

// hangUp tells a runner that there will be no reply.
func (w *world) hangUp(m mail, err string, unsent bool) {
	m.reply, m.err, m.unsent = true, err, unsent
	w.deliverable(m)
}

func (w *world) deliverable(m mail) {
	r := &w.runners[m.by]
	if !m.orphan && r.run != nil && r.life == m.life {
		w.mails = append(w.mails, m)
	}
}

// hear brings a reply to its runner.
func (w *world) hear(at int) {
	m := w.take(at)
	r := &w.runners[m.by]
	if r.run == nil || r.life != m.life {
		return // who asked is gone
	}
	if m.err == "" && !w.reaches(r.host, m.host) {
		m.err = "connection lost"
	}
	a := run.Answered{ID: m.call, Err: m.err, Unsent: m.unsent}
	if m.err == "" {
		a.Reply = m.r
		if m.q.Verb == wire.VerbStatus && m.r.Status != nil {
			r.noteRead(m.node, digest(m.r.Status.Basis), m.seenAt)
		}
	}
	w.feed(m.by, a)
}

// reaches reports whether a connection from one host to another works.
func (w *world) reaches(from, to int8) bool {
	return from == to || w.machines[from].on && w.machines[to].on && w.machines[from].cut&(1<<to) == 0
}

// link cuts a link, or heals it.
func (w *world) link(a, b int8, cut bool) {
	x, y := &w.machines[a], &w.machines[b]
	if cut {
		x.cut |= 1 << b
		y.cut |= 1 << a
	} else {
		x.cut &^= 1 << b
		y.cut &^= 1 << a
	}
}
