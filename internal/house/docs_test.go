package house

import (
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// link finds the targets of Markdown links and pictures, without what follows a #.
var link = regexp.MustCompile(`\]\(([^)#\s]+)`)

// linksOf gives the files that a page links to, by name from the root. Addresses elsewhere are left out.
func linksOf(page, text string) []string {
	var out []string
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		if !strings.Contains(m[1], "://") && !strings.HasPrefix(m[1], "mailto:") {
			out = append(out, path.Join(path.Dir(page), m[1]))
		}
	}
	return out
}

func TestLinksLeadSomewhere(t *testing.T) {
	dir, links := root(t), 0
	for name, text := range tracked(t) {
		if path.Ext(name) != ".md" {
			continue
		}
		for _, to := range linksOf(name, text) {
			links++
			if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(to))); err != nil {
				t.Errorf("%s links to %s: %v", name, to, err)
			}
		}
	}
	if links == 0 {
		t.Error("no page links to anything")
	}
}

// TestDecisionsAreListed wants every page of docs/design in its index: a decision that nobody finds is taken twice.
func TestDecisionsAreListed(t *testing.T) {
	const index = "docs/design/README.md"
	files := tracked(t)
	listed := map[string]bool{index: true}
	for _, to := range linksOf(index, files[index]) {
		listed[to] = true
	}
	for name := range files {
		if path.Dir(name) == path.Dir(index) && !listed[name] {
			t.Errorf("%s is not in %s: add a line", name, index)
		}
	}
}

func TestLinksOf(t *testing.T) {
	text := "see [a](x.md), ![b](img/y.svg) and [c](../z.md#part), [d](https://example.org/q.md), [e](#here)"
	got := strings.Join(linksOf("docs/p.md", text), " ")
	if want := "docs/x.md docs/img/y.svg z.md"; got != want {
		t.Errorf("links are %q, want %q", got, want)
	}
}
