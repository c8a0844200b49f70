// Package errorfs wraps a file system so that its k-th operation fails, for tests that ask: whatever fails, and whenever, is what
// was safe before still safe?
//
// A test runs the code under test with k = 0, 1, 2 ... until Injected says that no operation was left to fail:
//
//	for k := 0; ; k++ {
//		faulty := errorfs.New(vfs.OS{}, errorfs.Fault{At: k, Err: syscall.ENOSPC})
//		err := codeUnderTest(faulty)
//		if !faulty.Injected() {
//			break // it ran through
//		}
//		// check err, and what is on the disk
//	}
package errorfs

import (
	"fmt"
	"io/fs"
	"sync"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// Fault says what is to fail.
type Fault struct {
	At    int    // number of the operation that fails; operations are counted from 0, those of open files among them
	Err   error  // what it fails with
	Short bool   // a failing Write stores the first half of its bytes
	Dead  bool   // every operation after it fails too, as for a process that was killed or a disk that is gone
	Only  string // count operations of this kind only, such as "write"; empty: all
}

// FS is a vfs.FS with one Fault in it. It may be used concurrently, as far as the file system beneath may.
type FS struct {
	inner vfs.FS
	fault Fault

	mu  sync.Mutex
	ops []string
}

var _ vfs.FS = (*FS)(nil)

// New wraps inner. A negative fault.At fails nothing and only counts.
func New(inner vfs.FS, fault Fault) *FS { return &FS{inner: inner, fault: fault} }

// Injected says whether the fault has happened.
func (f *FS) Injected() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fault.At >= 0 && len(f.ops) > f.fault.At
}

// Ops lists the operations counted so far, each as "kind name".
func (f *FS) Ops() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.ops...)
}

// step counts an operation and gives the error it fails with, if any.
func (f *FS) step(kind, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fault.Only != "" && f.fault.Only != kind {
		return nil
	}
	k := len(f.ops)
	f.ops = append(f.ops, kind+" "+name)
	if k == f.fault.At || f.fault.Dead && f.fault.At >= 0 && k > f.fault.At {
		return &fs.PathError{Op: kind, Path: name, Err: f.fault.Err}
	}
	return nil
}

// MkdirAll implements vfs.FS.
func (f *FS) MkdirAll(dir string) error {
	if err := f.step("mkdir", dir); err != nil {
		return err
	}
	return f.inner.MkdirAll(dir)
}

// Create implements vfs.FS.
func (f *FS) Create(name string, perm fs.FileMode) (vfs.File, error) {
	if err := f.step("create", name); err != nil {
		return nil, err
	}
	inner, err := f.inner.Create(name, perm)
	if err != nil {
		return nil, err
	}
	return &file{File: inner, fs: f, name: name}, nil
}

// Open implements vfs.FS.
func (f *FS) Open(name string) (vfs.File, error) {
	if err := f.step("open", name); err != nil {
		return nil, err
	}
	inner, err := f.inner.Open(name)
	if err != nil {
		return nil, err
	}
	return &file{File: inner, fs: f, name: name}, nil
}

// Edit implements vfs.FS.
func (f *FS) Edit(name string, perm fs.FileMode) (vfs.EditFile, error) {
	if err := f.step("edit", name); err != nil {
		return nil, err
	}
	inner, err := f.inner.Edit(name, perm)
	if err != nil {
		return nil, err
	}
	return &editFile{file: file{File: inner, fs: f, name: name}, inner: inner}, nil
}

// ReadDir implements vfs.FS.
func (f *FS) ReadDir(dir string) ([]fs.DirEntry, error) {
	if err := f.step("readdir", dir); err != nil {
		return nil, err
	}
	return f.inner.ReadDir(dir)
}

// Rename implements vfs.FS.
func (f *FS) Rename(from, to string) error {
	if err := f.step("rename", to); err != nil {
		return err
	}
	return f.inner.Rename(from, to)
}

// Remove implements vfs.FS.
func (f *FS) Remove(name string) error {
	if err := f.step("remove", name); err != nil {
		return err
	}
	return f.inner.Remove(name)
}

// SyncDir implements vfs.FS.
func (f *FS) SyncDir(dir string) error {
	if err := f.step("syncdir", dir); err != nil {
		return err
	}
	return f.inner.SyncDir(dir)
}

// Free implements vfs.FS.
func (f *FS) Free(dir string) (int64, error) {
	if err := f.step("free", dir); err != nil {
		return -1, err
	}
	return f.inner.Free(dir)
}

// file is an open file whose operations are counted with the others.
type file struct {
	vfs.File
	fs   *FS
	name string
}

func (f *file) Write(p []byte) (int, error) { return f.write(p, f.File.Write) }

// write has write store p, or as much of it as the fault lets through.
func (f *file) write(p []byte, write func([]byte) (int, error)) (int, error) {
	err := f.fs.step("write", f.name)
	if err == nil {
		return write(p)
	}
	if !f.fs.fault.Short {
		return 0, err
	}
	n, innerErr := write(p[:len(p)/2])
	if innerErr != nil {
		return n, fmt.Errorf("%w (while injecting %v)", innerErr, err)
	}
	return n, err
}

func (f *file) Read(p []byte) (int, error) {
	if err := f.fs.step("read", f.name); err != nil {
		return 0, err
	}
	return f.File.Read(p)
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.step("read", f.name); err != nil {
		return 0, err
	}
	return f.File.ReadAt(p, off)
}

func (f *file) Sync() error {
	if err := f.fs.step("sync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *file) Stat() (fs.FileInfo, error) {
	if err := f.fs.step("stat", f.name); err != nil {
		return nil, err
	}
	return f.File.Stat()
}

// Close closes the file beneath in any case, so that a test leaks none.
func (f *file) Close() error {
	err := f.fs.step("close", f.name)
	if innerErr := f.File.Close(); err == nil {
		err = innerErr
	}
	return err
}

// editFile is an open file that is changed in place.
type editFile struct {
	file
	inner vfs.EditFile
}

func (f *editFile) WriteAt(p []byte, off int64) (int, error) {
	return f.write(p, func(p []byte) (int, error) { return f.inner.WriteAt(p, off) })
}

func (f *editFile) Truncate(size int64) error {
	if err := f.fs.step("truncate", f.name); err != nil {
		return err
	}
	return f.inner.Truncate(size)
}
