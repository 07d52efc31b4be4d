package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// pagesEach is how many pages are asked of each web server: twice every
	// worker's turn.
	pagesEach = 2 * workers
	// pageTime bounds one page.
	pageTime = 5 * time.Second
)

// tally is what became of some pages.
type tally struct {
	asked, failed int
	hosts         []hostTally
}

// hostTally is the same for one web server: its pages in order, and what the
// last that failed said.
type hostTally struct {
	name string
	good []bool
	why  string
}

// pages asks every web server for pages, one after the other, and shows what
// came.
func (d *demo) pages(ctx context.Context, webs []*host) tally {
	t := tally{hosts: make([]hostTally, len(webs))}
	var wg sync.WaitGroup
	for i, h := range webs {
		wg.Go(func() {
			one := &t.hosts[i]
			one.name = h.name
			for range pagesEach {
				err := page(ctx, d.url(h, "/"))
				one.good = append(one.good, err == nil)
				if err != nil {
					one.why = err.Error()
				}
			}
		})
	}
	wg.Wait()
	for _, one := range t.hosts {
		for _, good := range one.good {
			t.asked++
			if !good {
				t.failed++
			}
		}
	}
	d.say.pages(t)
	return t
}

func (p *place) url(h *host, path string) string { return "http://" + p.servesAt(h) + path }

// page asks for one page, on a connection of its own and past any proxy.
func page(ctx context.Context, url string) error {
	client := &http.Client{Timeout: pageTime, Transport: &http.Transport{DisableKeepAlives: true}}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r, err := client.Do(q)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(io.LimitReader(r.Body, 1<<10))
	if err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return fmt.Errorf("%d: %s", r.StatusCode, strings.TrimSpace(string(text)))
	}
	return nil
}
