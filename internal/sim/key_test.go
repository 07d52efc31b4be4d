package sim

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"slices"
)

// key is what can influence the future of a world, its invariants included: two
// worlds of one scenario with equal keys behave alike. Lives are counted from the
// beginning, for their number is bounded by the faults that a scenario allows; all
// other numbers only by their order.
func (w *world) key() []byte {
	b := make([]byte, 0, 2048)
	b = append(b, w.left[:]...)
	for i := range w.machines {
		h := &w.machines[i]
		b = flags(b, h.on, h.revoked)
		b = binary.AppendUvarint(b, uint64(h.cut))
		b = numbers(b, int(h.boots))
	}
	for i := range w.keepers {
		b = contents(b, w.keepers[i])
	}
	for k := range w.nodes {
		b = w.keyOfNode(b, &w.nodes[k])
	}
	for i := range w.runners {
		b = w.keyOfRunner(b, int8(i))
	}
	// Of what is under way at the same time none comes first.
	var under [][]byte
	for i := range w.mails {
		under = append(under, w.keyOfMail(nil, &w.mails[i]))
	}
	for i := range w.gates {
		under = append(under, w.keyOfGate(&w.gates[i]))
	}
	slices.SortFunc(under, bytes.Compare)
	for _, u := range under {
		b = binary.AppendUvarint(b, uint64(len(u)))
		b = append(b, u...)
	}
	b = flags(b, w.calm)
	return append(b, w.broken...)
}

func (w *world) keyOfNode(b []byte, n *node) []byte {
	b = flags(b, n.up, n.failed, n.ready, n.nameless, n.broken, n.purpose, n.rolled, n.wait != nil)
	b = flags(b, n.unsaid, n.unslotted, n.forgot, n.left, n.unseen, n.waived)
	b = numbers(b, int(n.life), int(n.inside), int(n.rank), int(n.everReady), int(n.downBy))
	if n.up {
		l := n.present()
		b = ranks(b, l.after)
		b = ranks(b, l.reloaded)
		b = contents(b, l.begunBy)
	}
	for _, j := range n.jobs {
		awaited := slices.IndexFunc(w.gates, func(g gateProc) bool { return g.job == j.id })
		b = append(b, j.action...)
		b = contents(b, j.cause)
		b = flags(b, j.boot, j.begun, awaited >= 0, j.child > 0)
	}
	b = append(b, '|')
	b = contents(b, n.disk)
	if h := n.wait; h != nil {
		b = contents(b, h.Waiter)
		b = contents(b, h.saw)
		b = numbers(b, int(h.now), int(h.since))
	}
	b = contents(b, n.reactions)
	ended := slices.Sorted(slices.Values(n.ended))
	for _, e := range ended {
		b = binary.LittleEndian.AppendUint64(b, e)
	}
	return append(b, '|')
}

func (w *world) keyOfRunner(b []byte, k int8) []byte {
	r := &w.runners[k]
	b = flags(b, r.due, r.full, r.run != nil, r.wake > 0)
	b = numbers(b, int(r.state), int(r.number), int(r.doomed), int(r.good), int(r.unslotted))
	if r.run == nil {
		// Only what a resumed run takes from its journal: its last words on each step.
		if r.state == cutOff && r.spec.hook == "" {
			for _, e := range r.journal {
				if s := e.Step; s != nil {
					b = numbers(b, s.ID)
					b = append(b, s.Phase...)
					b = flags(b, s.Acted, s.Slot, s.Own != nil)
					if s.Own != nil {
						b = append(b, *s.Own...)
					}
				}
			}
		}
		return append(b, '|')
	}
	if !w.sc.untimed {
		b = numbers(b, int(r.wake-r.now))
	}
	b = r.run.Key(b)
	// An ENSURE to come is judged by what was good since its node was read.
	for d := range w.nodes {
		for _, s := range r.reads[int8(d)] {
			if s.at > 0 {
				b = binary.LittleEndian.AppendUint64(b, s.basis)
				b = w.keySince(b, int8(d), s.at)
			}
		}
	}
	return append(b, '|')
}

// keySince says which incarnations of what a node depends on were ready at some
// time since.
func (w *world) keySince(b []byte, d int8, since int32) []byte {
	for _, e := range w.layouts[0].edges[d] {
		for _, u := range e.ups {
			for i := range w.nodes[u].lives {
				b = flags(b, w.nodes[u].lives[i].readyAt >= since)
			}
			b = w.keySince(b, u, since)
		}
	}
	return b
}

func (w *world) keyOfMail(b []byte, m *mail) []byte {
	r := &w.runners[m.by]
	waiting := !m.orphan && r.run != nil && r.life == m.life
	b = flags(b, m.reply, m.unsent, waiting)
	b = numbers(b, int(m.node), int(m.host), int(m.by), int(m.run))
	if waiting { // its number among those that are out
		older := 0
		for i := range w.mails {
			if o := &w.mails[i]; o.by == m.by && !o.orphan && o.call < m.call {
				older++
			}
		}
		for i := range w.gates {
			if o := &w.gates[i].mail; o.by == m.by && !o.orphan && o.life == r.life && o.call < m.call {
				older++
			}
		}
		b = numbers(b, older)
	}
	b = contents(b, m.q)
	b = contents(b, m.r)
	b = append(b, m.err...)
	if m.since > 0 {
		b = w.keySince(b, m.node, m.since)
	}
	if m.seenAt > 0 {
		b = w.keySince(b, m.node, m.seenAt)
	}
	return b
}

func (w *world) keyOfGate(g *gateProc) []byte {
	b := w.keyOfMail([]byte{'g'}, &g.mail)
	b = flags(b, g.lock, g.asked, g.over, g.failed, g.job != 0, g.child != 0)
	b = append(b, effectName(g.next)...)
	b = append(b, g.do...)
	b = contents(b, g.m)
	if g.seenAt > 0 {
		b = w.keySince(b, g.node, g.seenAt)
	}
	return b
}

func flags(b []byte, set ...bool) []byte {
	var bits byte
	for i, s := range set {
		if s {
			bits |= 1 << i
		}
	}
	return append(b, bits)
}

func numbers(b []byte, all ...int) []byte {
	for _, n := range all {
		b = binary.AppendVarint(b, int64(n))
	}
	return b
}

func ranks(b []byte, all []int16) []byte {
	b = numbers(b, len(all))
	for _, n := range all {
		b = numbers(b, int(n))
	}
	return b
}

// contents appends a value by what it holds, following pointers: also of machines
// of other packages, whose fields nobody else may read.
func contents[T any](b []byte, v T) []byte { return walk(b, reflect.ValueOf(&v).Elem()) }

func walk(b []byte, v reflect.Value) []byte {
	switch v.Kind() {
	case reflect.Bool:
		return flags(b, v.Bool())
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return binary.AppendVarint(b, v.Int())
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return binary.AppendUvarint(b, v.Uint())
	case reflect.String:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		return append(b, v.String()...)
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(b, 0)
		}
		return walk(append(b, 1), v.Elem())
	case reflect.Slice:
		b = binary.AppendUvarint(b, uint64(v.Len()))
		for i := range v.Len() {
			b = walk(b, v.Index(i))
		}
		return b
	case reflect.Struct:
		for i := range v.NumField() {
			b = walk(b, v.Field(i))
		}
		return b
	}
	panic("no key for a " + v.Kind().String())
}
