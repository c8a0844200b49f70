//go:build !linux

package netlab

import (
	"context"
	"errors"
	"net"
	"os/exec"
)

// Lab is for Linux; elsewhere there is none.
type Lab struct{}

// Missing says why there can be no lab here.
func Missing() error { return errors.New("network namespaces are Linux's") }

// New says that there is none.
func New(context.Context, Config) (*Lab, error) { return nil, Missing() }

// The methods of a lab, which nobody can have.
func (l *Lab) Method() string                                            { return "" }
func (l *Lab) Control(int) string                                        { return "" }
func (l *Lab) Data(int) string                                           { return "" }
func (l *Lab) Command(context.Context, int, string, ...string) *exec.Cmd { return nil }
func (l *Lab) Hub(context.Context, string, ...string) *exec.Cmd          { return nil }
func (l *Lab) Impair(int, Impairment) error                              { return Missing() }
func (l *Lab) Dial(context.Context, int, string) (net.Conn, error)       { return nil, Missing() }
func (l *Lab) Close() error                                              { return nil }
