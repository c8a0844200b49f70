// Package examples holds waits for the test to judge; its comments say what it is to find.
package examples

import (
	"context"
	"time"
)

type pair struct {
	in   chan int
	over chan struct{} //bounded: closed by the first error, and by Close
	bare chan struct{}
	each [2]chan struct{} //bounded: closed when that neighbour says no more
}

func sends(p *pair, n int) {
	p.in <- 1 // want a send waits
	one := make(chan int, 1)
	go func() { one <- 1 }()
	<-one // want a receive waits
	two := make(chan int, 1)
	two <- 1 // want a send waits
	two <- 2 // want a send waits
	many := make(chan int, 1)
	for range n {
		many <- 1 // want a send waits
		own := make(chan int, 1)
		own <- 1
	}
	unknown := make(chan int, n)
	unknown <- 1 // want a send waits
	shared := make(chan int, 1)
	elsewhere(shared)
	shared <- 1 // want a send waits
	lent := make(chan int, 1)
	reads(lent)
	lent <- 1
	again := make(chan int, 1)
	f := func() {
		again <- 1 // want a send waits
	}
	f()
	f()
	p.in <- 1 //bounded: the reader takes one for each frame, which has a deadline
}

func elsewhere(chan<- int) {}
func reads(<-chan int)     {}

func receives(ctx context.Context, p *pair) {
	<-p.in       // want a receive waits
	<-p.over     // want a receive waits
	<-ctx.Done() // want a receive waits
	<-time.After(time.Second)
	<-time.NewTimer(time.Second).C
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	<-short.Done()
	//bounded: the writer sends its result when its call ends,
	// which has a deadline
	<-p.in
	for range p.in { // want a loop takes from a channel
	}
	select {
	case x := <-p.in: // a case, and no wait of its own
		<-p.bare // want a receive waits
		_ = x
	default:
	}
}

func selects(ctx context.Context, p *pair, i int) {
	select {} // want a select has no default
	select {  // want a select has no default
	case <-p.in:
	case p.in <- 1:
	}
	select { // want a select has no default
	case <-p.in:
	case <-p.bare:
	}
	select {
	case <-p.in:
	case <-p.over:
	}
	select {
	case <-p.in:
	case <-p.each[i]:
	}
	select {
	case <-p.in:
	case <-ctx.Done():
	}
	done := ctx.Done()
	select {
	case p.in <- 1:
	case <-done:
	}
	t := time.NewTimer(time.Second)
	select {
	case p.in <- 1:
	case <-t.C:
	}
	select { //bounded: both are closed by Close at the latest
	case <-p.in:
	case <-p.bare:
	}
}

func said() {
	_ = 1 //bounded: nothing waits on this line // want stands at nothing
	a := make(chan int)
	<-a //bounded: soon // want has 1 words
}
