package waits

import (
	"bytes"
	"fmt"
	"go/token"
	"strings"
)

// prefix begins a comment that says what ends a wait.
const prefix = "//bounded:"

// leastWords is how much a reason has to say at least: what ends the wait, and when.
const leastWords = 3

// A line is a place in a file.
type line struct {
	file string
	n    int
}

// A directive is one //bounded: comment.
type directive struct {
	at     token.Position
	reason string
	used   bool
}

// directives holds all comments of the module by the lines that they speak of. Those of one package bound
// selects of others too, which receive from its channels.
type directives struct {
	byLine map[line]*directive
	all    []*directive
}

// read adds a package's comments.
func (d *directives) read(set *token.FileSet, p *pkg) {
	for _, f := range p.files {
		for _, group := range f.Comments {
			for _, c := range group.List {
				reason, ok := strings.CutPrefix(c.Text, prefix)
				if !ok {
					continue
				}
				// A test's own expectations stand behind the comment.
				reason, _, _ = strings.Cut(reason, "// want ")
				b := &directive{at: set.Position(c.Pos()), reason: reason}
				d.all = append(d.all, b)
				d.byLine[line{b.at.Filename, b.at.Line}] = b
				if p.alone(b.at) {
					d.byLine[line{b.at.Filename, set.Position(group.End()).Line + 1}] = b
				}
			}
		}
	}
}

// alone says whether nothing stands before a place on its line.
func (p *pkg) alone(at token.Position) bool {
	before := p.text[at.Filename][:at.Offset]
	return len(bytes.TrimSpace(before[bytes.LastIndexByte(before, '\n')+1:])) == 0
}

// cover says whether a comment speaks of the place, and counts it as used.
func (d *directives) cover(at token.Position) bool {
	b := d.byLine[line{at.Filename, at.Line}]
	if b != nil {
		b.used = true
	}
	return b != nil
}

// faults lists comments that say too little, and those that nothing needs. Call it when everything was looked at.
func (d *directives) faults() []fault {
	var out []fault
	for _, b := range d.all {
		switch words := len(strings.Fields(b.reason)); {
		case words < leastWords:
			out = append(out, fault{b.at, fmt.Sprintf("%s has %d words: say what ends the wait, and when", prefix, words)})
		case !b.used:
			out = append(out, fault{b.at, prefix + " stands at nothing that waits: remove it, or move it to the wait"})
		}
	}
	return out
}
