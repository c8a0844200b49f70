package deploy

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// quoted is the message in the first cell of a row of docs/operate.md's last table.
var quoted = regexp.MustCompile("^\\| `([^`]+)` \\|")

// TestMessagesAreThePrograms wants every message that the guide explains to stand in the source, piece by piece: one that nobody
// prints any more helps nobody. Rows that are marked as of work in progress are named.
func TestMessagesAreThePrograms(t *testing.T) {
	guide, err := os.ReadFile("../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(guide), "## Messages")
	if !found {
		t.Fatal("the guide has no messages")
	}
	source, rows := sourceText(t), 0
	for line := range strings.Lines(table) {
		m := quoted.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if strings.Contains(line, "<!-- check") {
			t.Logf("not looked for yet: %s", m[1])
			continue
		}
		rows++
		for _, piece := range strings.Split(m[1], "...") {
			if !strings.Contains(source, piece) {
				t.Errorf("%q of message %q is nowhere in the source", piece, m[1])
			}
		}
	}
	if rows < 30 {
		t.Errorf("only %d messages were found", rows)
	}
}

// sourceText is all of the program's text.
func sourceText(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	for _, tree := range []string{"allreduce", "checkpoint", "cmd", "coordinator", "core", "internal", "shard", "worker"} {
		err := filepath.WalkDir(filepath.Join("..", tree), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			b.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}
