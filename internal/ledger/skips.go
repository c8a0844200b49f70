package ledger

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// SkipsName is the file, in the folder of a run, that lists the damaged images that were passed over.
const SkipsName = "damaged.jsonl"

// Skip is a damaged image of a committed step, or of an evaluation. The file has one on a line.
type Skip struct {
	Name   string `json:"name"`   // its path in the data set
	Sample int    `json:"sample"` // its index in its split
	By     int    `json:"by"`     // the index of the one used in its place; -1 in an evaluation, which goes without
}

// maxSkips bounds what is read: more than any data set of images has.
const maxSkips = 1 << 24

// ReadSkips reads such a list; a file that is not there is an empty one.
func ReadSkips(path string) ([]Skip, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read from
	var list []Skip
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var s Skip
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil || s.Name == "" || s.Sample < 0 || s.By < -1 || len(list) == maxSkips {
			return nil, fmt.Errorf("%s: line %d: %.80q names no damaged image; move the file away if it is not a run's", path, len(list)+1, lines.Text())
		}
		list = append(list, s)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: line %d: %w", path, len(list)+1, err)
	}
	return list, nil
}

// Skips gathers, over a run and whoever goes on with it, which images were passed over, each once. It may be used by several goroutines.
type Skips struct {
	path string

	mu    sync.Mutex
	list  []Skip // sorted
	dirty bool
}

// OpenSkips goes on with the list at path, or begins one. Nothing is written before there is something to write.
func OpenSkips(path string) (*Skips, error) {
	list, err := ReadSkips(path)
	if err != nil {
		return nil, err
	}
	s := &Skips{path: path}
	for _, k := range list {
		s.Add(k)
	}
	s.dirty = false
	return s, nil
}

func (s Skip) compare(o Skip) int {
	return cmp.Or(cmp.Compare(s.Name, o.Name), cmp.Compare(s.Sample, o.Sample), cmp.Compare(s.By, o.By))
}

// Add takes note of an image, and says how many there are.
func (s *Skips) Add(k Skip) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, found := slices.BinarySearchFunc(s.list, k, Skip.compare); !found {
		s.list, s.dirty = slices.Insert(s.list, i, k), true
	}
	return len(s.list)
}

// List gives all images, by name.
func (s *Skips) List() []Skip {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// Sync blocks until the list is on disk. Steps whose images are lost with a crash before it are lost as well, and done again.
func (s *Skips) Sync() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dirty {
		return nil
	}
	err := vfs.WriteAtomic(vfs.OS{}, s.path, 0o644, func(w io.Writer) error {
		b := bufio.NewWriter(w)
		e := json.NewEncoder(b)
		for _, k := range s.list {
			if err := e.Encode(k); err != nil {
				return err
			}
		}
		return b.Flush()
	})
	s.dirty = err != nil
	return err
}
