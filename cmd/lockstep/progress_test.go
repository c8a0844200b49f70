package main

import (
	"bytes"
	"testing"

	"github.com/lockstep-ml/lockstep/coordinator"
)

// On a terminal the line is written over; what stays gets a line of its own above it.
func TestProgressOnTerminal(t *testing.T) {
	var b bytes.Buffer
	p := progressPrinter{w: &b, terminal: true}
	step := coordinator.Progress{Step: 1, Total: 2, Epoch: 0.5, Loss: 2.5, Top1: 0.25, LR: 0.1, ImagesPerSecond: 100}
	p.step(step)
	p.step(coordinator.Progress{Step: 1, Total: 2, Event: "odd", Warning: true})
	step.Step = 2
	p.step(step)
	p.step(step) // comes with an evaluation again
	p.evaluated(coordinator.Evaluation{Step: 2, Images: 10, Correct1: 5, Correct5: 9, Loss: 1})
	p.end()
	const erase = "\r\x1b[K"
	want := erase + "epoch 0.50  step 1/2  loss 2.5000  top-1 25.0 %  LR 0.1  100 img/s  0s left" +
		erase + "warning: odd\n" +
		erase + "epoch 0.50  step 2/2  loss 2.5000  top-1 25.0 %  LR 0.1  100 img/s  0s left" +
		erase + "after step 2: test top-1 50.00 %, top-5 90.00 %, loss 1.0000 (10 images)\n"
	if b.String() != want {
		t.Errorf("wrote\n%q\nwant\n%q", b.String(), want)
	}
}
