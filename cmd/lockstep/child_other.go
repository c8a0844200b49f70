//go:build !linux

package main

import "syscall"

// dieWithParent is for Linux: elsewhere workers end when they miss the coordinator's heartbeats.
func dieWithParent(*syscall.SysProcAttr) {}
