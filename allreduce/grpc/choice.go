package ringgrpc

import "time"

const (
	// worthTrying is the predicted gain from which the other way is tried: below
	// it, a prediction is as likely wrong as right.
	worthTrying = 1.10
	// worthStarting and worthStaying are the measured gains that coding is kept
	// for; the gap keeps noise from switching to and fro.
	worthStarting = 1.05
	worthStaying  = 1.02
	// noSlower is how much of its pace the ring must keep; the rest is noise.
	noSlower = 0.95
	// trialWindows is how many windows a trial takes: one is too noisy.
	trialWindows = 4
	// recheckWindows is how many windows coding goes on before a trial without it
	// says again what the link carries.
	recheckWindows = 64
	// minPatience and maxPatience bound the windows between trials that fail, of
	// which there are twice as many after each: a trial soon takes 1 % of the time.
	minPatience = 32
	maxPatience = 512
	// otherLink is the part of what a link carried below which it counts as another
	// link: what was known of it is forgotten, and so is a trial that failed.
	otherLink = 0.7
)

// window is what a link carried in a stretch of time.
type window struct {
	values int64         // bytes of values, before coding
	busy   time.Duration // how long the network took for them
	span   time.Duration // how long the ring did, pauses between its bursts apart
}

// rates are bytes of values a second; 0 is not known.
type rates struct {
	link float64 // while the network was busy
	ring float64 // while the ring was
}

// mix moves r towards now by a share.
func (r *rates) mix(now rates, share float64) {
	r.link += (now.link - r.link) * share
	r.ring += (now.ring - r.ring) * share
}

// choice decides whether a link codes, from figures alone: it has no clock.
//
// A prediction (the coder's speed and ratio against what the link carries) only
// starts a trial; what decides is how many bytes of values a second the link
// carried with coding and without, while the ring was no slower for it. A prediction
// alone would have to know how far coding overlaps with writing, and what it takes
// from others that want the same cores. The ring's own pace alone would tell nothing:
// it is that of the slowest link, so the first that codes gains nothing by it.
type choice struct {
	on    bool // the way of the window in progress
	trial bool // that way is being tried

	plain, coded rates
	coder        float64 // bytes of values a second that coder and decoder manage
	ratio        float64 // bytes sent for one of values

	waited   int     // windows in this trial, or since the last one
	patience int     // windows to let pass before the next one
	failed   float64 // plain at the last trial that failed
}

// speed takes in a measurement of the coder.
func (c *choice) speed(perSecond, ratio float64) {
	c.coder, c.ratio = blend(c.coder, perSecond), blend(c.ratio, ratio)
}

// blend lets a new figure count for a quarter; the first one counts alone.
func blend(old, now float64) float64 {
	if old == 0 {
		return now
	}
	return old + (now-old)/4
}

// predicted is how many times faster coding should be, 0 while that is not known.
func (c *choice) predicted() float64 {
	if c.coder == 0 || c.plain.link == 0 {
		return 0
	}
	return min(1/c.ratio, c.coder/c.plain.link)
}

// curious says whether a fresh measurement of the coder could change anything.
func (c *choice) curious() bool { return c.coder == 0 || c.coder > c.plain.link }

// next takes in a window and decides about the one after it. It says whether
// coding has started or stopped for good, not for a trial.
func (c *choice) next(w window) (settled bool) {
	c.waited++
	c.learn(w)
	switch {
	case c.trial && c.waited >= trialWindows:
		return c.judge()
	case c.trial:
	case c.on && c.waited >= recheckWindows:
		c.try(false)
	case !c.on && (c.waited >= c.patience || c.plain.link < otherLink*c.failed) && c.predicted() >= worthTrying:
		c.try(true)
	}
	return false
}

// learn takes in what a window says about its way.
func (c *choice) learn(w window) {
	now := rates{link: perSecond(w.values, w.busy), ring: perSecond(w.values, w.span)}
	known := &c.plain
	if c.on {
		known = &c.coded
		if c.coder > 0 { // the network's time says nothing of the coder's
			now.link = min(now.link, c.coder)
		}
	}
	switch {
	case c.trial: // the mean over its windows
		known.mix(now, 1/float64(c.waited))
	case now.link < otherLink*known.link || now.link > known.link/otherLink:
		*known = now // to blend would make a link that there never was
	default:
		known.mix(now, 0.25)
	}
}

func perSecond(bytes int64, d time.Duration) float64 {
	return float64(bytes) / max(d, time.Microsecond).Seconds()
}

// try begins a trial, of which nothing may be known from before.
func (c *choice) try(on bool) {
	c.on, c.trial, c.waited = on, true, 0
	if on {
		c.coded = rates{}
	} else {
		c.plain = rates{}
	}
}

// judge ends a trial.
func (c *choice) judge() (settled bool) {
	tried, bar := c.on, worthStaying
	if tried {
		bar = worthStarting
	}
	c.on = c.coded.link >= bar*c.plain.link && c.coded.ring >= noSlower*c.plain.ring
	c.trial, c.waited = false, 0
	if c.on {
		c.patience, c.failed = 0, 0
	} else {
		c.failed = c.plain.link
		c.patience = min(maxPatience, max(minPatience, 2*c.patience))
	}
	// A trial of coding that was kept, or one without it that was.
	return c.on == tried
}
