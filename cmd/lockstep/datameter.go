package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// A meter shows how far a command that goes through data is: a line that is written over on a terminal, else plain lines now and then.
// Its methods may be called concurrently.
type meter struct {
	unit string // what is counted, such as images; "" for bytes

	mu      sync.Mutex
	out     progressPrinter
	started time.Time
	now     func() time.Time
}

func newMeter(w io.Writer, unit string) *meter {
	return &meter{unit: unit, out: progressPrinter{w: w, terminal: isTerminal(w)}, started: time.Now(), now: time.Now}
}

// show is told that done of total are behind, of which free cost no time, and so many bytes. A total of 0 is not known.
func (m *meter) show(done, total, free int, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	every := plainEvery
	if m.out.terminal {
		every = terminalEvery
	}
	now := m.now()
	if m.out.last.IsZero() && !m.out.terminal {
		m.out.last = m.started
	}
	if now.Sub(m.out.last) < every && done != total {
		return
	}
	m.out.last = now
	m.out.line(m.text(done, total, free, bytes, now.Sub(m.started)))
}

// barWidth is in characters.
const barWidth = 24

// text is one line: a bar, what is done, the rate, and the time that is left at that rate.
func (m *meter) text(done, total, free int, bytes int64, spent time.Duration) string {
	var b strings.Builder
	if total > 0 {
		full := min(done, total) * barWidth / total
		fmt.Fprintf(&b, "%s%s %3d %%  ", strings.Repeat("█", full), strings.Repeat("░", barWidth-full), 100*done/total)
	}
	rate := float64(done-free) / max(spent.Seconds(), 1e-3)
	if m.unit == "" {
		fmt.Fprintf(&b, "%s", formatBytes(int64(done)))
		if total > 0 {
			fmt.Fprintf(&b, " of %s", formatBytes(int64(total)))
		}
		fmt.Fprintf(&b, "  %s/s", formatBytes(int64(rate)))
	} else {
		fmt.Fprintf(&b, "%d of %d %s  %s  %.0f %s/s", done, total, m.unit, formatBytes(bytes), rate, m.unit)
	}
	if left := total - done; left > 0 && rate > 0 {
		fmt.Fprintf(&b, "  %s left", time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second))
	}
	return b.String()
}

// event writes a line that stays.
func (m *meter) event(s string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.out.event(s)
}

// end leaves the last line standing.
func (m *meter) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.out.end()
}

func (m *meter) seconds() float64 { return m.now().Sub(m.started).Seconds() }
