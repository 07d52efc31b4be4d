package plan

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"kido/internal/site"
)

// GraphFormat is a language in which a graph is written.
type GraphFormat string

// The formats. Their spelling is the command line's.
const (
	FormatTree    GraphFormat = "tree"    // for a terminal
	FormatDOT     GraphFormat = "dot"     // Graphviz
	FormatMermaid GraphFormat = "mermaid" // flowchart
	FormatJSON    GraphFormat = "json"    // nodes and edges
)

// GraphOptions chooses how a topology is drawn.
type GraphOptions struct {
	Format    GraphFormat // default FormatTree
	Instances bool        // every instance by itself; otherwise services with their hosts
	ASCII     bool        // FormatTree without box-drawing characters
	// Only leaves out what neither comes before nor after one of these; none:
	// the whole site.
	Only []site.Instance
}

// WriteGraph draws the topology, upstreams first. An unknown format is an
// error, and nothing is written.
func (t *Topology) WriteGraph(out io.Writer, o GraphOptions) error {
	d := t.draw(o)
	w := bufio.NewWriter(out)
	switch o.Format {
	case FormatTree, "":
		d.tree(w, o.ASCII)
	case FormatDOT:
		d.dot(w)
	case FormatMermaid:
		d.mermaid(w)
	case FormatJSON:
		if err := d.json(w); err != nil {
			return err
		}
	default:
		return fmt.Errorf("no such graph format: %q; there are tree, dot, mermaid and json", o.Format)
	}
	return w.Flush()
}

// drawing is a graph to be drawn: services, or instances in boxes of hosts.
type drawing struct {
	site      string
	instances bool
	nodes     []node
}

type node struct {
	name    string
	service string
	hosts   []string
	next    []arrow
	root    bool // nothing comes before it
}

type arrow struct {
	to  int // node
	dep dependency
}

// words are what is to be said of a dependency; none for the usual one.
func (a arrow) words() []string {
	var words []string
	switch a.dep.reaction {
	case reactNone:
		words = append(words, "order only")
	case reactReload:
		words = append(words, "reload")
	case reactStopFirst:
		words = append(words, "stop first")
	}
	if a.dep.soft {
		words = append(words, "wants")
	}
	if a.dep.any {
		words = append(words, "any of")
	}
	if a.dep.sameHost {
		words = append(words, "same host")
	}
	return words
}

func (t *Topology) draw(o GraphOptions) drawing {
	d := drawing{site: t.site.Name, instances: o.Instances}
	within := t.related(o.Only)
	nodeOf := make([]int, t.all()) // -1: not drawn
	for i := range t.all() {
		last := len(d.nodes) - 1
		switch v := t.instances[i]; {
		case !within[i]:
			nodeOf[i] = -1
			continue
		case o.Instances:
			d.nodes = append(d.nodes, node{name: v.String(), service: v.Service, hosts: []string{v.Host}, root: true})
		case last >= 0 && d.nodes[last].service == v.Service:
			d.nodes[last].hosts = append(d.nodes[last].hosts, v.Host)
		default:
			d.nodes = append(d.nodes, node{name: v.Service, service: v.Service, hosts: []string{v.Host}, root: true})
		}
		nodeOf[i] = len(d.nodes) - 1
	}
	for i := range t.all() {
		if nodeOf[i] < 0 {
			continue
		}
		for _, dep := range t.depsOf(i) {
			begin, end := t.upstreams(i, dep)
			if o.Instances {
				dep.sameHost = false // plain to see
			}
			for u := begin; u < end; u++ {
				if nodeOf[u] < 0 {
					continue
				}
				from, to := &d.nodes[nodeOf[u]], nodeOf[i]
				if last := len(from.next) - 1; last < 0 || from.next[last].to != to {
					from.next = append(from.next, arrow{to, dep})
					d.nodes[to].root = false
				}
			}
		}
	}
	return d
}

// related marks the instances with all that comes before or after them; all
// where there are none.
func (t *Topology) related(only []site.Instance) []bool {
	var starts []int32
	for _, instance := range only {
		if i, ok := t.lookup(instance); ok {
			starts = append(starts, i)
		}
	}
	marked := t.starts.Reach(starts, true)
	for i, before := range t.starts.Reach(starts, false) {
		marked[i] = marked[i] || before || len(only) == 0
	}
	return marked
}

// tree draws under each name what comes after it. What has several upstreams
// is drawn out where it is met first, and named with an arrow that points up
// there under the others.
func (d drawing) tree(w io.Writer, ascii bool) {
	tee, corner, bar, above := "├── ", "└── ", "│   ", " ↑"
	if ascii {
		tee, corner, bar, above = "|-- ", "`-- ", "|   ", " (above)"
	}
	drawn := make([]bool, len(d.nodes))
	label := func(n int) string {
		switch {
		case drawn[n]:
			return d.nodes[n].name + above
		case d.instances:
			return d.nodes[n].name
		}
		return d.nodes[n].name + " [" + strings.Join(d.nodes[n].hosts, " ") + "]"
	}
	var under func(n int, indent string)
	under = func(n int, indent string) {
		drawn[n] = true
		next := d.nodes[n].next
		for i, a := range next {
			branch, deeper := tee, indent+bar
			if i == len(next)-1 {
				branch, deeper = corner, indent+"    "
			}
			text := label(a.to)
			if words := a.words(); len(words) > 0 {
				text += "  (" + strings.Join(words, ", ") + ")"
			}
			fmt.Fprintln(w, indent+branch+text)
			if !drawn[a.to] {
				under(a.to, deeper)
			}
		}
	}
	for n := range d.nodes {
		if d.nodes[n].root {
			fmt.Fprintln(w, label(n))
			under(n, "")
		}
	}
}

func (d drawing) dot(w io.Writer) {
	fmt.Fprintf(w, "digraph %s {\n", dotString(d.site))
	fmt.Fprintln(w, "  rankdir=LR;")
	fmt.Fprintln(w, `  node [shape=box, style=rounded, fontname="sans-serif"];`)
	fmt.Fprintln(w, `  edge [fontname="sans-serif", fontsize=10];`)
	if d.instances {
		for n, box := range d.boxes() {
			fmt.Fprintf(w, "  subgraph %s {\n    label=%s;\n    color=gray;\n", dotString(fmt.Sprintf("cluster_%d", n)), dotString(box.host))
			for _, i := range box.nodes {
				fmt.Fprintf(w, "    %s [label=%s];\n", dotString(d.nodes[i].name), dotString(d.nodes[i].service))
			}
			fmt.Fprintln(w, "  }")
		}
	} else {
		for _, n := range d.nodes {
			fmt.Fprintf(w, "  %s [label=%s];\n", dotString(n.name), dotString(n.name+"\n"+strings.Join(n.hosts, " ")))
		}
	}
	for _, n := range d.nodes {
		for _, a := range n.next {
			var attributes []string
			if words := a.words(); len(words) > 0 {
				attributes = append(attributes, "label="+dotString(strings.Join(words, ", ")))
			}
			switch {
			case a.dep.reaction == reactNone:
				attributes = append(attributes, "style=dotted")
			case a.dep.soft:
				attributes = append(attributes, "style=dashed")
			}
			text := ""
			if len(attributes) > 0 {
				text = " [" + strings.Join(attributes, ", ") + "]"
			}
			fmt.Fprintf(w, "  %s -> %s%s;\n", dotString(n.name), dotString(d.nodes[a.to].name), text)
		}
	}
	fmt.Fprintln(w, "}")
}

// dotString quotes for DOT. A backslash would begin one of its own escapes.
func dotString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

func (d drawing) mermaid(w io.Writer) {
	fmt.Fprintln(w, "flowchart LR")
	if d.instances {
		for n, box := range d.boxes() {
			fmt.Fprintf(w, "  subgraph h%d[%s]\n", n, mermaidString(box.host))
			for _, i := range box.nodes {
				fmt.Fprintf(w, "    n%d(%s)\n", i, mermaidString(d.nodes[i].service))
			}
			fmt.Fprintln(w, "  end")
		}
	} else {
		for i, n := range d.nodes {
			fmt.Fprintf(w, "  n%d(%s)\n", i, mermaidString(n.name+"\n"+strings.Join(n.hosts, " ")))
		}
	}
	for i, n := range d.nodes {
		for _, a := range n.next {
			line, text := "-->", ""
			if a.dep.reaction == reactNone || a.dep.soft {
				line = "-.->"
			}
			if words := a.words(); len(words) > 0 {
				text = "|" + mermaidString(strings.Join(words, ", ")) + "|"
			}
			fmt.Fprintf(w, "  n%d %s%s n%d\n", i, line, text, a.to)
		}
	}
}

// mermaidString quotes for Mermaid, which knows no escapes in strings but
// character entities with # for &; what HTML or Markdown would read is hidden
// too.
func mermaidString(s string) string {
	return `"` + strings.NewReplacer(
		"#", "#35;", `"`, "#quot;", "&", "#amp;", "<", "#lt;", ">", "#gt;", "`", "#96;", "\n", "<br>",
	).Replace(s) + `"`
}

func (d drawing) json(w io.Writer) error {
	type jsonNode struct {
		Name  string   `json:"name"`
		Hosts []string `json:"hosts"`
	}
	type jsonEdge struct {
		From      string        `json:"from"`
		To        string        `json:"to"`
		OnRestart site.Reaction `json:"onRestart"`
		Strength  site.Strength `json:"strength"`
		Of        site.Of       `json:"of"`
		SameHost  bool          `json:"sameHost,omitempty"`
	}
	graph := struct {
		Site  string     `json:"site"`
		Nodes []jsonNode `json:"nodes"`
		Edges []jsonEdge `json:"edges"`
	}{d.site, []jsonNode{}, []jsonEdge{}}
	for _, n := range d.nodes {
		graph.Nodes = append(graph.Nodes, jsonNode{n.name, n.hosts})
		for _, a := range n.next {
			e := jsonEdge{n.name, d.nodes[a.to].name, a.dep.reaction.site(), site.Requires, site.OfAll, a.dep.sameHost}
			if a.dep.soft {
				e.Strength = site.Wants
			}
			if a.dep.any {
				e.Of = site.OfAny
			}
			graph.Edges = append(graph.Edges, e)
		}
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(graph)
}

type box struct {
	host  string
	nodes []int
}

// boxes gathers the instances of each host, hosts in the order in which they
// are first met.
func (d drawing) boxes() []box {
	var boxes []box
	at := map[string]int{}
	for n := range d.nodes {
		host := d.nodes[n].hosts[0]
		if _, met := at[host]; !met {
			at[host] = len(boxes)
			boxes = append(boxes, box{host: host})
		}
		boxes[at[host]].nodes = append(boxes[at[host]].nodes, n)
	}
	return boxes
}
