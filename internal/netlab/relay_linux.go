package netlab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// relay carries packets between the nodes' TUN devices, each a fixed time after it was sent. Who is to get it says its IPv4 address.
type relay struct {
	delay   time.Duration
	devices []*os.File
	ends    []end
	group   sync.WaitGroup
	dropped atomic.Int64
	closed  atomic.Bool
	failed  atomic.Pointer[error]
}

// end is a node's end of its link.
type end struct {
	impairment atomic.Pointer[Impairment]
	out, in    pace
	// queues has what is under way to each node, in order of time; made by take when the first packet goes there.
	queues []chan packet
}

// pace is one direction of a slow link: when it will have sent what it was given.
type pace struct {
	mu   sync.Mutex
	free time.Time
}

// maxWaiting bounds what waits in front of a slow link, as time; a router drops what is more.
const maxWaiting = 500 * time.Millisecond

// pass gives when so many bytes that come at a time have passed; false if they were dropped.
func (p *pace) pass(at time.Time, bytes int, bitsPerSecond int64) (time.Time, bool) {
	if bitsPerSecond == 0 {
		return at, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	begin := at
	if p.free.After(begin) {
		begin = p.free
	}
	if begin.Sub(at) > maxWaiting {
		return at, false
	}
	p.free = begin.Add(time.Duration(float64(8*bytes) / float64(bitsPerSecond) * float64(time.Second)))
	return p.free, true
}

// packet is what a device gave, header included.
type packet struct {
	due  time.Time
	to   int
	data []byte
}

const (
	// virtioHeader is in front of each packet: it says how the kernel is to segment it and to finish its checksum. It is handed on as it is.
	virtioHeader = 10
	// maxPacket is the largest IPv4 packet, which is what TCP sends while segmentation is left to the device.
	maxPacket = virtioHeader + 64<<10
	// queueLength bounds the packets under way from one node to another. The sender's token bucket bounds their bytes: rate times delay.
	queueLength = 1 << 14
	// destination is where an IPv4 header has the receiver's address.
	destination = 16
)

// newRelay makes a TUN device named data in each node's namespace.
func newRelay(l *Lab) (*relay, error) {
	r := &relay{delay: l.cfg.Delay, ends: make([]end, l.cfg.Nodes)}
	for i := range r.ends {
		r.ends[i].queues = make([]chan packet, l.cfg.Nodes)
		r.ends[i].impairment.Store(&Impairment{})
	}
	for i := range l.cfg.Nodes {
		f, err := openTUN(l.node(i), "data")
		if err != nil {
			return nil, errors.Join(fmt.Errorf("a TUN device for node %d: %w", i, err), r.close())
		}
		r.devices = append(r.devices, f)
	}
	return r, nil
}

// openTUN makes a TUN device in a namespace. Only a thread that is in the namespace can; it ends with its goroutine, for it could not be
// trusted to be back.
func openTUN(namespace, name string) (*os.File, error) {
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() { // ends at once
		runtime.LockOSThread()
		f, err := openTUNHere(namespace, name)
		done <- opened{f, err}
	}()
	o := <-done //bounded: opening a device waits for nobody
	return o.f, o.err
}

func openTUNHere(namespace, name string) (*os.File, error) {
	ns, err := os.Open(filepath.Join("/run/netns", namespace))
	if err != nil {
		return nil, err
	}
	defer ns.Close() // read only
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("entering namespace %s: %w", namespace, err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err == nil {
		// TCP's segments come and go by up to 64 KiB, as they would to a network card.
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// start carries packets until close.
func (r *relay) start() {
	for i := range r.devices {
		r.group.Go(func() { r.take(i) })
	}
}

// take reads what a node sends.
func (r *relay) take(from int) {
	defer func() {
		for _, q := range r.ends[from].queues {
			if q != nil {
				close(q)
			}
		}
	}()
	buf := make([]byte, maxPacket)
	for {
		n, err := r.devices[from].Read(buf)
		if r.closed.Load() {
			return
		}
		if err != nil { // nothing more will come of it: whoever waits for packets finds out, and close says why
			r.failed.CompareAndSwap(nil, &err)
			return
		}
		to := receiver(buf[:n], len(r.devices))
		if to < 0 {
			continue // neighbour discovery and the like
		}
		due, passes := r.fate(from, to, n)
		if !passes {
			r.dropped.Add(1)
			continue
		}
		p := packet{due: due, to: to, data: append(make([]byte, 0, n), buf[:n]...)}
		select {
		case r.queue(from, to) <- p:
		default:
			r.dropped.Add(1) // as a router does
		}
	}
}

// queue is the way from one node to another.
func (r *relay) queue(from, to int) chan packet {
	q := &r.ends[from].queues[to]
	if *q == nil {
		*q = make(chan packet, queueLength)
		r.group.Go(func() { r.deliver(*q) })
	}
	return *q
}

// fate says when a packet arrives, if it does.
func (r *relay) fate(from, to, bytes int) (due time.Time, passes bool) {
	sender, receiver := r.ends[from].impairment.Load(), r.ends[to].impairment.Load()
	due = time.Now().Add(r.delay + sender.Delay + receiver.Delay)
	if sender.DropSent || receiver.DropReceived || unlucky(sender.Loss) || unlucky(receiver.Loss) {
		return due, false
	}
	if due, passes = r.ends[from].out.pass(due, bytes, sender.BitsPerSecond); !passes {
		return due, false
	}
	return r.ends[to].in.pass(due, bytes, receiver.BitsPerSecond)
}

// unlucky is true for a share of its calls.
func unlucky(share float64) bool { return share > 0 && rand.Float64() < share }

// receiver is the node that a packet is for, -1 for none.
func receiver(data []byte, nodes int) int {
	if len(data) < virtioHeader+20 || data[virtioHeader]>>4 != 4 {
		return -1
	}
	ip := data[virtioHeader:]
	if to := nodeOf(ip[destination : destination+4]); to < nodes {
		return to
	}
	return -1
}

// deliver hands a node's packets over when they are due.
func (r *relay) deliver(queue <-chan packet) {
	// Go's timers wait for whole milliseconds where nothing else happens; a thread of its own can ask the kernel for less.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1000, 0, 0, 0); err != nil { // nanoseconds
		panic("netlab: prctl of this very thread failed: " + err.Error())
	}
	for p := range queue { //bounded: take closes the queue when its device is closed
		for wait := time.Until(p.due); wait > 0 && !r.closed.Load(); wait = time.Until(p.due) {
			t := unix.NsecToTimespec(min(wait, 10*time.Millisecond).Nanoseconds())
			unix.Nanosleep(&t, nil) // woken early, it looks again
		}
		if r.closed.Load() {
			continue
		}
		if _, err := r.devices[p.to].Write(p.data); err != nil {
			r.dropped.Add(1) // the receiver has no room: TCP sends it again
		}
	}
}

// close ends everything and deletes the devices.
func (r *relay) close() error {
	r.closed.Store(true)
	var errs []error
	for _, f := range r.devices {
		errs = append(errs, f.Close())
	}
	r.group.Wait() //bounded: the devices are closed, which ends reads and so the queues
	if err := r.failed.Load(); err != nil {
		errs = append(errs, fmt.Errorf("reading a node's packets: %w", *err))
	}
	return errors.Join(errs...)
}
