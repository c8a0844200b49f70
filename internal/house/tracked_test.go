package house

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// tracked reads the text files that git tracks, by name. It skips the test where there is no git or no checkout.
func tracked(t *testing.T) map[string]string {
	t.Helper()
	dir := root(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", "ls-files", "-z")
	cmd.Dir = dir
	list, err := cmd.Output()
	if err != nil {
		t.Skipf("no list of tracked files: git ls-files: %v", err)
	}
	files := map[string]string{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(name)))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.ContainsRune(text, 0) {
			files[name] = string(text)
		}
	}
	if len(files) == 0 {
		t.Fatal("git tracks no text file")
	}
	return files
}
