// Package proto holds the protocol buffers: lockstep/v1/control.proto is the control protocol.
package proto

//go:generate go tool -modfile=../tools/go.mod buf generate
