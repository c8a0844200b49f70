package source

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// abandoned is how old an unfinished entry is when its writer must be dead.
const abandoned = time.Hour

// wrote counts, and makes room after every sixteenth of the bound. One goroutine of one process does so at a time.
func (c *cache) wrote(n int64) error {
	c.mu.Lock()
	c.unseen -= n
	due := c.unseen < 0 && !c.evicting
	c.evicting = c.evicting || due
	c.mu.Unlock()
	if !due {
		return nil
	}
	err := c.makeRoom()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unseen, c.evicting = c.size/16, false
	return err
}

// makeRoom removes what has not been used for longest until a sixteenth of the bound is free.
func (c *cache) makeRoom() (err error) {
	lock, err := vfs.Lock(filepath.Join(c.dir, "lock"))
	if errors.Is(err, vfs.ErrLocked) {
		return nil // another process is at it
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	entries, total, err := c.scan()
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b usedFile) int { return a.used.Compare(b.used) })
	for _, e := range entries {
		if total <= c.size-c.size/16 {
			break
		}
		if err := os.Remove(e.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		total -= e.size
	}
	return nil
}

type usedFile struct {
	path string
	size int64
	used time.Time
}

// scan lists the entries, and removes what writers that died left.
func (c *cache) scan() (entries []usedFile, total int64, err error) {
	folders, err := os.ReadDir(c.dir)
	if err != nil {
		return nil, 0, err
	}
	for _, d := range folders {
		if !d.IsDir() {
			continue
		}
		files, err := os.ReadDir(filepath.Join(c.dir, d.Name()))
		if err != nil {
			return nil, 0, err
		}
		for _, f := range files {
			info, err := f.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, 0, err
			}
			e := usedFile{filepath.Join(c.dir, d.Name(), f.Name()), info.Size(), info.ModTime()}
			if vfs.IsTemp(f.Name()) {
				if c.now().Sub(e.used) > abandoned {
					c.remove(e.path)
				}
				continue
			}
			entries, total = append(entries, e), total+e.size
		}
	}
	return entries, total, nil
}
