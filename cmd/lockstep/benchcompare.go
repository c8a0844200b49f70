package main

import (
	_ "embed"
	"fmt"
	"io"
	"strings"
)

// comparePy is the notes and the script in one: a Python file whose documentation is what to do and what to watch.
//
//go:embed compare.py
var comparePy string

// compareCase is the line of the script that names the case.
const compareCase = "ARCH, BATCH, THREADS, STEPS = 'cifar-resnet20', 128, 1, 7\n"

// printComparison prints the script for one case.
func printComparison(w io.Writer, o benchOptions) error {
	net, err := o.network()
	if err != nil {
		return err
	}
	line := fmt.Sprintf("ARCH, BATCH, THREADS, STEPS = '%s', %d, %d, %d\n", net.Name, o.batch, o.threads, o.steps)
	_, err = io.WriteString(w, strings.Replace(comparePy, compareCase, line, 1))
	return err
}
