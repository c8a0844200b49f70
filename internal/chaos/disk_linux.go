package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// disk is a small file system of its own, which can be full.
type disk struct {
	dir string
}

// missingDisk says why there can be none, nil if there can.
func missingDisk() error {
	dir, err := os.MkdirTemp("", "lockstep-disk-")
	if err != nil {
		return err
	}
	d, err := newDisk(dir, 1<<20)
	if err == nil {
		err = d.close()
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// newDisk mounts a file system of so many bytes, in memory, on a folder that exists.
func newDisk(dir string, bytes int) (*disk, error) {
	if err := unix.Mount("lockstep-chaos", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		return nil, fmt.Errorf("mounting a small file system: %w", err)
	}
	return &disk{dir: dir}, nil
}

func (d *disk) ballast() string { return filepath.Join(d.dir, "ballast") }

// fill takes every byte that is free.
func (d *disk) fill() error {
	f, err := os.Create(d.ballast())
	if err != nil && !errors.Is(err, unix.ENOSPC) {
		return err
	}
	if err != nil {
		return nil // not even room for a name
	}
	for chunk := make([]byte, 1<<20); len(chunk) > 0; {
		if _, err = f.Write(chunk); err != nil {
			chunk = chunk[:len(chunk)/2]
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		err = fmt.Errorf("filling %s up: %w", d.dir, err)
	} else {
		err = nil
	}
	return errors.Join(err, f.Close())
}

// free gives back what fill took.
func (d *disk) free() error {
	if err := os.Remove(d.ballast()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// close unmounts it, with everything that is on it. Processes that still have files open there do not hold it up.
func (d *disk) close() error { return unix.Unmount(d.dir, unix.MNT_DETACH) }
