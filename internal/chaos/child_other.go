//go:build !linux

package chaos

import "syscall"

// dieWithParent needs Linux; elsewhere a child outlives a parent that is killed.
func dieWithParent(*syscall.SysProcAttr) {}
