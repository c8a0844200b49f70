package vfs

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const tempMark = ".tmp-"

// IsTemp says whether a base name is one that WriteAtomic gives to a file it has not finished.
func IsTemp(base string) bool {
	return strings.HasPrefix(base, ".") && strings.Contains(base, tempMark)
}

// tempName gives a fresh name beside path: hidden, and unlike any other writer's.
func tempName(path string) string {
	var b [8]byte
	rand.Read(b[:]) // crypto/rand never fails: it ends the process instead
	dir, base := filepath.Split(path)
	return dir + "." + base + tempMark + hex.EncodeToString(b[:])
}

// WriteAtomic makes path hold what write writes, replacing a file that is there. Everything goes to a temporary file in the same
// folder first, which is synced, closed and renamed, and then the folder is synced. When anything fails before the rename the
// temporary file is removed and path is as it was. When only the last sync fails, path is already the new file but may be lost in a
// power cut; that too is an error. The errors name the file and the operation and wrap the cause.
func WriteAtomic(fsys FS, path string, perm fs.FileMode, write func(io.Writer) error) error {
	temp := tempName(path)
	if err := writeTemp(fsys, temp, perm, write); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), removeTemp(fsys, temp))
	}
	if err := fsys.Rename(temp, path); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", path, err), removeTemp(fsys, temp))
	}
	if err := fsys.SyncDir(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: sync its folder: %w", path, err)
	}
	return nil
}

func writeTemp(fsys FS, temp string, perm fs.FileMode, write func(io.Writer) error) error {
	f, err := fsys.Create(temp, perm)
	if err != nil {
		return err
	}
	if err := write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

// removeTemp cleans up after a failure; a file that was never made is fine.
func removeTemp(fsys FS, temp string) error {
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("and the unfinished %s stays: %w", temp, err)
	}
	return nil
}

// CleanTemp removes what writers that crashed left unfinished in a folder, and gives the names removed. Call it only where no other
// writer can be at work.
func CleanTemp(fsys FS, dir string) ([]string, error) {
	entries, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var removed []string
	var failed error
	for _, e := range entries {
		if !IsTemp(e.Name()) || !e.Type().IsRegular() {
			continue
		}
		if err := fsys.Remove(filepath.Join(dir, e.Name())); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		removed = append(removed, e.Name())
	}
	return removed, failed
}
