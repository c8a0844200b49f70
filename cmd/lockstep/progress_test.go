package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/lockstep-ml/lockstep/coordinator"
)

// On a terminal the line is written over; what stays gets a line of its own above it.
func TestProgressOnTerminal(t *testing.T) {
	var b bytes.Buffer
	p := progressPrinter{w: &b, terminal: true}
	step := coordinator.Progress{Step: 1, Total: 2, Epoch: 0.5, Loss: 2.5, Top1: 0.25, LR: 0.1, ImagesPerSecond: 100, Tail: 1234 * time.Microsecond, DataWait: 50 * time.Microsecond}
	p.step(step)
	p.step(coordinator.Progress{Step: 1, Total: 2, Event: "odd", Warning: true})
	step.Step = 2
	p.step(step)
	p.step(step) // comes with an evaluation again
	p.evaluated(coordinator.Evaluation{Step: 2, Images: 10, Correct1: 5, Correct5: 9, Loss: 1})
	p.end()
	const erase = "\r\x1b[K"
	want := erase + "epoch 0.50  step 1/2  loss 2.5000  top-1 25.0 %  LR 0.1  100 img/s  tail 1.23 ms  data 0.05 ms  0s left" +
		erase + "warning: odd\n" +
		erase + "epoch 0.50  step 2/2  loss 2.5000  top-1 25.0 %  LR 0.1  100 img/s  tail 1.23 ms  data 0.05 ms  0s left" +
		erase + "after step 2: test top-1 50.00 %, top-5 90.00 %, loss 1.0000 (10 images)\n"
	if b.String() != want {
		t.Errorf("wrote\n%q\nwant\n%q", b.String(), want)
	}
}

func TestMilliseconds(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0.00 ms", 4 * time.Microsecond: "0.00 ms", 420 * time.Microsecond: "0.42 ms", 12340 * time.Microsecond: "12.3 ms", 123400 * time.Microsecond: "123 ms", 2 * time.Second: "2000 ms",
	} {
		if got := milliseconds(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}
