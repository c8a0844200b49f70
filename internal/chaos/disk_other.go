//go:build !linux

package chaos

import "errors"

// disk is for Linux; elsewhere there is none.
type disk struct{}

func missingDisk() error                 { return errors.New("a small file system in memory is Linux's") }
func newDisk(string, int) (*disk, error) { return nil, missingDisk() }
func (*disk) fill() error                { return missingDisk() }
func (*disk) free() error                { return missingDisk() }
func (*disk) close() error               { return missingDisk() }
