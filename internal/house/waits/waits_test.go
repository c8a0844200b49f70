package waits

import (
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// notYetHeld are packages and files, from the module's root, whose waits are listed in the log alone.
var notYetHeld []string

// loadOnce is shared by the tests: asking the go command takes seconds.
var loadOnce struct {
	sync.Once
	l *loader
}

func shared(t *testing.T) *loader {
	t.Helper()
	loadOnce.Do(func() { loadOnce.l = newLoader(t) })
	if loadOnce.l == nil {
		t.Fatal("the module could not be loaded")
	}
	return loadOnce.l
}

func TestNothingWaitsWithoutBound(t *testing.T) {
	l := shared(t)
	packages := l.packages(t)
	if len(packages) < 20 {
		t.Fatalf("only %d packages were found", len(packages))
	}
	said := &directives{byLine: map[line]*directive{}}
	for _, p := range packages {
		said.read(l.set, p)
	}
	var faults []fault
	for _, p := range packages {
		faults = append(faults, find(l.set, p, said)...)
	}
	faults = append(faults, said.faults()...)
	free := map[string]bool{}
	for _, f := range faults {
		rel, err := filepath.Rel(l.root, f.at.Filename)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.ToSlash(rel)
		say := t.Errorf
		for _, place := range notYetHeld {
			if place == name || place == filepath.ToSlash(filepath.Dir(name)) {
				free[place], say = true, t.Logf
			}
		}
		say("%s:%d: %s. Or say on that line what ends it: %s why", name, f.at.Line, f.what, prefix)
	}
	for _, place := range notYetHeld {
		if !free[place] {
			t.Logf("%s is in order: take it from the list", place)
		}
	}
}

// TestFindsAndProves compares what is found in the packages of testdata with what their comments want.
func TestFindsAndProves(t *testing.T) {
	l := shared(t)
	files, err := filepath.Glob("testdata/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".go"), func(t *testing.T) {
			p := l.check(t, "testdata", []string{name})
			said := &directives{byLine: map[line]*directive{}}
			said.read(l.set, p)
			found := append(find(l.set, p, said), said.faults()...)
			wants := expected(l, p)
			for _, f := range found {
				i := slices.IndexFunc(wants, func(w want) bool { return w.line == f.at.Line && strings.Contains(f.what, w.text) })
				if i < 0 {
					t.Errorf("%s:%d: found, and not wanted: %s", name, f.at.Line, f.what)
					continue
				}
				wants = slices.Delete(wants, i, i+1)
			}
			for _, w := range wants {
				t.Errorf("%s:%d: not found: %s", name, w.line, w.text)
			}
		})
	}
}

// A want is a comment of an example: on this line something is to be found whose description holds the text.
type want struct {
	line int
	text string
}

func expected(l *loader, p *pkg) (out []want) {
	for _, f := range p.files {
		for _, g := range f.Comments {
			for _, c := range g.List {
				for _, text := range strings.Split(c.Text, "// want ")[1:] {
					out = append(out, want{l.set.Position(c.Pos()).Line, strings.TrimSpace(text)})
				}
			}
		}
	}
	return out
}
