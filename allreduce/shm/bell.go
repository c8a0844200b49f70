package shm

import (
	"os"
	"sync"
	"syscall"
)

// A bell is one end of a pipe that wakes whoever sleeps at the other. What is in
// it means nothing, only that there is something: the words in the control
// area say what. A futex would need no descriptor, but blocks a thread where a pipe
// blocks a goroutine, and does not tell when the other process has died.
type bell struct {
	file *os.File
	once sync.Once
}

// ring wakes the other side. A pipe that is full will wake it anyhow, and a
// broken one has nobody to wake.
func (b *bell) ring() {
	c, err := b.file.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Write(func(fd uintptr) bool { // fails only when closed
		_, _ = syscall.Write(int(fd), []byte{1})
		return true
	})
}

// wait sleeps until the bell is rung, or returns an error when nobody can ring
// it any more or it was closed here.
func (b *bell) wait() error {
	var sink [64]byte
	_, err := b.file.Read(sink[:])
	return err
}

// close may be called twice, and ends a wait.
func (b *bell) close() {
	b.once.Do(func() { _ = b.file.Close() }) // nothing is buffered that could be lost
}
