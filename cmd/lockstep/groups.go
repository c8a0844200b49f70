package main

import (
	"fmt"
	"strconv"

	"github.com/lockstep-ml/lockstep/allreduce"
)

// groups is a flag's value: how many workers a group of the ring has. 0 is auto.
type groups int

const groupHelp = "workers in a group of the ring, which then has two levels: auto by the measured latency and rate of the links, 1 for a flat ring, or a divisor of --workers. No bits depend on it"

// String implements pflag.Value.
func (g *groups) String() string {
	if *g == 0 {
		return "auto"
	}
	return strconv.Itoa(int(*g))
}

// Type implements pflag.Value.
func (g *groups) Type() string { return "auto|N" }

// Set implements pflag.Value.
func (g *groups) Set(text string) error {
	if text == "auto" {
		*g = 0
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return fmt.Errorf("%q is neither auto nor a number of workers", text)
	}
	*g = groups(n)
	return nil
}

// check says why so many workers cannot be in such groups.
func (g *groups) check(workers int) error {
	if err := allreduce.CheckGroup(workers, int(*g)); err != nil {
		return fmt.Errorf("--group: %w", err)
	}
	return nil
}
