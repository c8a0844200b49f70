package ledger

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestSkips(t *testing.T) {
	path := filepath.Join(t.TempDir(), SkipsName)
	a, b := Skip{"train/a.jpg", 4, 5}, Skip{"train/\nb.jpg", 9, 0}
	for round := range 2 { // the second goes on with the first one's list
		s, err := OpenSkips(path)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(s.List()); n != 2*round {
			t.Fatalf("round %d begins with %d", round, n)
		}
		for want, k := range []Skip{a, a, b, b} {
			if n := s.Add(k); round == 0 && n != 1+want/2 {
				t.Errorf("%d after %v", n, k)
			}
		}
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
		if got := s.List(); !slices.Equal(got, []Skip{b, a}) {
			t.Errorf("round %d: %v", round, got)
		}
	}
	for _, bad := range []string{"x\n", `{"name":"a","sample":-1}` + "\n", `{"sample":1}` + "\n", strings.Repeat("9", 1<<17)} {
		if err := os.WriteFile(path, []byte(`{"name":"a","sample":1,"by":2}`+"\n"+bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenSkips(path); err == nil || !strings.Contains(err.Error(), path+": line 2") {
			t.Errorf("%.20q: error %v", bad, err)
		}
	}
}

func TestNoSkipsNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), SkipsName)
	s, err := OpenSkips(path)
	if err == nil {
		err = s.Sync()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a file without images: %v", err)
	}
}
