//go:build !linux && !darwin

package vfs

import "os"

// lock has no advisory lock to take here: two writers are not kept apart.
func lock(*os.File) error { return nil }
