package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// spins is how often a thread looks for work, or for the others to end, before it parks: some 100 microseconds.
// Fewer would park while the caller does a step alone; more would burn a core between batches.
const spins = 100000

// pool runs jobs of many items on a fixed set of goroutines: the caller's and threads-1 more, which live until close.
// Items are taken one by one from a shared counter. A channel send per step and thread was the simpler design; it
// costs more than many of the steps.
type pool struct {
	threads int
	job     func(item, thread int)
	items   int64
	next    atomic.Int64
	epoch   atomic.Uint64 // counts jobs; a change starts one
	busy    atomic.Int64  // helpers that have not ended this job
	closed  atomic.Bool
	parked  []atomic.Bool // by helper; set before it waits on its wake
	wake    []chan struct{}
	waiting atomic.Bool // the caller waits on done
	done    chan struct{}
	group   sync.WaitGroup
	started bool
}

func newPool(threads int) *pool {
	p := &pool{threads: threads, done: make(chan struct{}, 1), parked: make([]atomic.Bool, threads-1), wake: make([]chan struct{}, threads-1)}
	for i := range p.wake {
		p.wake[i] = make(chan struct{}, 1)
	}
	return p
}

// run calls job for every item below items and returns when all have ended.
func (p *pool) run(items int, job func(item, thread int)) {
	if p.threads == 1 || items == 1 {
		for i := range items {
			job(i, 0)
		}
		return
	}
	if !p.started {
		p.start()
	}
	p.job, p.items = job, int64(items)
	p.next.Store(0)
	p.busy.Store(int64(p.threads - 1))
	p.epoch.Add(1)
	for i := range p.wake {
		if p.parked[i].CompareAndSwap(true, false) {
			p.wake[i] <- struct{}{} //bounded: it has room, and the flag that was lowered allows one send
		}
	}
	p.take(0)
	p.wait()
}

func (p *pool) start() {
	p.started = true
	for i := range p.wake {
		p.group.Add(1)
		go p.help(i)
	}
}

func (p *pool) take(thread int) {
	for {
		i := p.next.Add(1) - 1
		if i >= p.items {
			return
		}
		p.job(int(i), thread)
	}
}

// wait returns when every helper has ended the job. A helper that ended the job before may be late in looking at waiting, take the
// flag of this one for its own and send: so what counts is busy, and each flag that is raised is lowered by one send or by wait itself.
func (p *pool) wait() {
	for range spins {
		if p.busy.Load() == 0 {
			return
		}
	}
	for {
		p.waiting.Store(true)
		ended := p.busy.Load() == 0
		if ended && p.waiting.CompareAndSwap(true, false) {
			return
		}
		<-p.done //bounded: the helpers only compute; the last of them sends
		if ended || p.busy.Load() == 0 {
			return
		}
	}
}

// help is one helper's life.
func (p *pool) help(i int) {
	defer p.group.Done()
	seen := uint64(0)
	for {
		seen = p.await(i, seen)
		if p.closed.Load() {
			return
		}
		p.take(i + 1)
		if p.busy.Add(-1) == 0 && p.waiting.CompareAndSwap(true, false) {
			p.done <- struct{}{} //bounded: it has room, and the flag that was lowered allows one send
		}
	}
}

// await returns the next epoch after seen. A wake is no proof of one: a caller that was held up between announcing a job and
// looking for parked helpers finds one that has done the job and parked again. It must not count as having done it twice.
func (p *pool) await(i int, seen uint64) uint64 {
	for {
		for n := range spins {
			if e := p.epoch.Load(); e != seen {
				return e
			}
			if n%4096 == 4095 {
				runtime.Gosched() //bounded: spins rounds, then it parks
			}
		}
		p.parked[i].Store(true)
		if e := p.epoch.Load(); e != seen && p.parked[i].CompareAndSwap(true, false) {
			return e
		}
		<-p.wake[i] //bounded: the next job wakes it, and close does
	}
}

// close ends the helpers and waits for them.
func (p *pool) close() {
	if p.closed.Swap(true) || !p.started {
		return
	}
	p.epoch.Add(1)
	for i := range p.wake {
		if p.parked[i].CompareAndSwap(true, false) {
			p.wake[i] <- struct{}{} //bounded: it has room, and the flag that was lowered allows one send
		}
	}
	p.group.Wait() //bounded: helpers see closed when they are woken
}
