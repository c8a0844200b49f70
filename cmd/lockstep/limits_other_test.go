//go:build !linux

package main

import "errors"

var errLinuxOnly = errors.New("only on Linux")

func mountSmall(string) error { return errLinuxOnly }

func unmount(string) error { return errLinuxOnly }

func limitFileSize(int, uint64) error { return errLinuxOnly }
