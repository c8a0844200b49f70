package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
)

// FS is what writers and readers of durable files ask of a file system. Names are paths of this machine. Every method blocks until
// the operation is done, and all may be called concurrently. Errors are those of package os.
type FS interface {
	// MkdirAll makes the folder and its parents; a folder that is there already is no error.
	MkdirAll(dir string) error
	// Create makes a new file for writing; one that exists is an error.
	Create(name string, perm fs.FileMode) (File, error)
	// Open opens a file for reading.
	Open(name string) (File, error)
	// Edit opens a file for reading and for writing in place, making it if there is none.
	Edit(name string, perm fs.FileMode) (EditFile, error)
	// ReadDir lists a folder, sorted by name.
	ReadDir(dir string) ([]fs.DirEntry, error)
	// Rename moves a file over another one in a single step.
	Rename(from, to string) error
	// Remove deletes a file.
	Remove(name string) error
	// SyncDir makes the creations, renames and removals in a folder survive a power cut.
	SyncDir(dir string) error
	// Free gives the bytes this process could still write in a folder's file system, or -1 where that cannot be told.
	Free(dir string) (int64, error)
}

// File is an open file.
type File interface {
	io.Writer
	io.Reader
	io.ReaderAt
	io.Closer
	// Sync blocks until what was written is on the disk.
	Sync() error
	// Stat describes the file.
	Stat() (fs.FileInfo, error)
}

// EditFile is a file that is changed in place: by whoever can tell what an interrupted change has left.
type EditFile interface {
	File
	io.WriterAt
	// Truncate makes the file that long.
	Truncate(size int64) error
}

// OS is the operating system's file system.
type OS struct{}

var _ FS = OS{}

// MkdirAll implements FS.
func (OS) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o755) }

// Create implements FS.
func (OS) Create(name string, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err // a nil *os.File inside a File would not be nil
	}
	return f, nil
}

// Open implements FS.
func (OS) Open(name string) (File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// Edit implements FS.
func (OS) Edit(name string, perm fs.FileMode) (EditFile, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, perm)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// ReadDir implements FS.
func (OS) ReadDir(dir string) ([]fs.DirEntry, error) { return os.ReadDir(dir) }

// Rename implements FS.
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove implements FS.
func (OS) Remove(name string) error { return os.Remove(name) }

// SyncDir implements FS.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Free implements FS.
func (OS) Free(dir string) (int64, error) { return free(dir) }
