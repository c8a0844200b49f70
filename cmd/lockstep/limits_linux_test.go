package main

import "golang.org/x/sys/unix"

// mountSmall puts a file system of 4 MiB on a folder.
func mountSmall(dir string) error { return unix.Mount("tmpfs", dir, "tmpfs", 0, "size=4m") }

func unmount(dir string) error { return unix.Unmount(dir, unix.MNT_DETACH) }

// limitFileSize makes a process's writes beyond so many bytes of a file fail.
func limitFileSize(pid int, bytes uint64) error {
	return unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: bytes}, nil)
}
