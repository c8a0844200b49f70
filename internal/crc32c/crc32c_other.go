//go:build !amd64

package crc32c

func folds() bool { return false }

func fold(*[block]byte, []byte) { panic("crc32c: no instructions for it here") }
