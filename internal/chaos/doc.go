// Package chaos breaks training runs on purpose and asks for the bits of the undisturbed one.
//
// A round is one run of real processes, a coordinator and up to so many workers, each in a network namespace of its own where root and kernel allow
// that, else on loopback. A schedule of faults, drawn from a seed alone, is worked off while they train: each is due once so many steps are
// committed and what the ones before did is mended. In the end the run must have the state hash of the undisturbed run, every sample must have been used once,
// and who was to end in order must have done so.
//
//	report, err := chaos.Soak(ctx, chaos.Config{Program: "lockstep", Seed: 7, Faults: 20, Workers: 4, ...})
//
// Where the time goes is the machine's doing, so a seed replays what is done and in what order, not the interleaving. Logs of all processes are kept
// when something was wrong.
package chaos
