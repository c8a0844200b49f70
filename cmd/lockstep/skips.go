package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/lockstep-ml/lockstep/coordinator"
	"github.com/lockstep-ml/lockstep/internal/ledger"
)

// skipLimit is the value of --skip-damaged: how many damaged images a run may pass over, allSkips for any number.
type skipLimit int

const (
	allSkips     skipLimit = -1
	skipAllWord            = "all"
	skipFlag               = "skip-damaged"
	skipFlagHelp           = "pass over up to `K` damaged images, each of which the next good one stands in for; without a number: all. " +
		"They are counted over the whole run and all its workers, and listed at its end"
)

func (k *skipLimit) Type() string { return "count" }

func (k *skipLimit) String() string {
	if *k == allSkips {
		return skipAllWord
	}
	return strconv.Itoa(int(*k))
}

// Set takes a number, "all", or the truth values that earlier versions wrote into checkpoints.
func (k *skipLimit) Set(text string) error {
	switch text {
	case skipAllWord, "true":
		*k = allSkips
		return nil
	case "false", "":
		*k = 0
		return nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return fmt.Errorf("%q is neither a number of images nor %q", text, skipAllWord)
	}
	*k = skipLimit(n)
	return nil
}

// any says whether images may be passed over at all.
func (k skipLimit) any() bool { return k != 0 }

// exceeded says whether so many are too many.
func (k skipLimit) exceeded(n int) bool { return k != allSkips && n > int(k) }

// joinCounts puts the number behind --skip-damaged to its flag, which may also stand alone; the parser knows one form or the other.
func joinCounts(args []string) []string {
	var out []string
	for i := 0; i < len(args); i++ {
		if args[i] == "--"+skipFlag && i+1 < len(args) && new(skipLimit).Set(args[i+1]) == nil && args[i+1] != "" {
			out = append(out, args[i]+"="+args[i+1])
			i++
			continue
		}
		out = append(out, args[i])
	}
	return out
}

// damagedLog keeps which images a run has passed over, over all workers, and notices when they are too many.
type damagedLog struct {
	*ledger.Skips
	limit skipLimit
	over  context.Context // ends when there are too many
	end   context.CancelFunc
}

// openDamaged opens the list in the output folder; a new run sets that of the one before it aside.
func (p *prepared) openDamaged(o *runOptions) error {
	path := filepath.Join(o.out, ledger.SkipsName)
	if !o.resume {
		if err := p.setAside(path); err != nil {
			return err
		}
	}
	list, err := ledger.OpenSkips(path)
	if err != nil {
		return err
	}
	d := &damagedLog{Skips: list, limit: p.settings.skipDamaged}
	d.over, d.end = context.WithCancel(context.Background()) //bounded: nothing waits for it; ended by too many images, and by prepared.close
	p.damaged = d
	return nil
}

// add takes a worker's report.
func (d *damagedLog) add(list []coordinator.Skipped) {
	for _, s := range list {
		if d.limit.exceeded(d.Add(ledger.Skip{Name: s.Name, Sample: s.Sample, By: s.By})) {
			d.end()
		}
	}
}

// names lists the images, each once, though one may be part of both splits.
func (d *damagedLog) names() []string {
	var out []string
	for _, s := range d.List() {
		out = append(out, s.Name)
	}
	return out
}

// errTooManyDamaged ends a run that has met more damaged images than it may pass over.
var errTooManyDamaged = errors.New("too many damaged images")

// reason says so for people.
func (d *damagedLog) reason() string {
	names := d.names()
	return fmt.Sprintf("%d damaged images are more than --%s %v allows (%s); replace them, or raise the number",
		len(names), skipFlag, &d.limit, listed(names))
}

// listed names some images, and counts the rest.
func listed(names []string) string {
	shown, more := names, ""
	if n := len(names) - maxNamed; n > 0 {
		shown, more = names[:maxNamed], fmt.Sprintf(" and %d more", n)
	}
	return strings.Join(shown, ", ") + more
}
