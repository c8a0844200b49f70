//go:build linux || darwin

package vfs_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/lockstep-ml/lockstep/internal/vfs"
)

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := vfs.Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	if second, err := vfs.Lock(path); !errors.Is(err, vfs.ErrLocked) {
		t.Fatalf("a second lock gave %v, %v", second, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := vfs.Lock(path)
	if err != nil {
		t.Fatalf("after the first was let go: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
