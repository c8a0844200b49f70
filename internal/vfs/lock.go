package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrLocked says that another process holds a lock.
var ErrLocked = errors.New("another process is using it")

// Lock takes the lock that path stands for, making the file, until the returned closer is closed or the process
// ends, however it ends. It does not wait: while another process has the lock, the error wraps ErrLocked.
func Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}
