// Command lockstep trains the networks of "Deep Residual Learning for Image Recognition" over one machine or many.
// This package holds flags and wiring, and nothing else: see docs/architecture.md for where the work is done.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"
)

// version is what workers and coordinators compare. A release sets it with -ldflags "-X main.version=v1.2.3".
var version = ""

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "dev"
}

// Exit codes: 1 is any failure, 130 what shells expect after Ctrl-C, 143 after SIGTERM: only one that left its run to another ends so.
const (
	exitInterrupted = 130
	exitHandedOver  = 143
)

// errInterrupted ends a command that was stopped in good order by a signal.
var errInterrupted = errors.New("interrupted")

func main() {
	// The first signal asks for an end in good order; stop() restores the default, so the second ends the process at once.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //bounded: the first signal ends it; each command bounds its own waits
	go func() {
		<-ctx.Done() //bounded: ends with the first signal, or with the process
		stop()
	}()
	command := root()
	command.SetArgs(joinCounts(os.Args[1:]))
	err := command.ExecuteContext(ctx)
	switch {
	case err == nil:
	case errors.Is(err, errHandedOver):
		fmt.Fprintln(os.Stderr, "lockstep:", err)
		os.Exit(exitHandedOver)
	case errors.Is(err, errInterrupted):
		fmt.Fprintln(os.Stderr, "lockstep:", err)
		os.Exit(exitInterrupted)
	default:
		fmt.Fprintln(os.Stderr, "lockstep:", err)
		os.Exit(1)
	}
}

func root() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "lockstep",
		Short: "Distributed training of residual networks with the same bits on any cluster",
		Long: `Lockstep trains the networks of "Deep Residual Learning for Image Recognition" (He et al., 2015) on one machine
or many. The trained weights depend on the settings, the seed and the data alone: not on how many workers there
were, how many threads they had, or what was interrupted and resumed.`,
		Example: `  lockstep train                                   a small run on the built-in sample of CIFAR-10
  lockstep train --data cifar10.tar.gz --epochs 15 --workers 2 --schedule steps:60%,90%
  lockstep model resnet50                          layers, shapes, parameters, multiply-adds`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       buildVersion(),
	}
	cmd.AddCommand(trainCommand(), coordinatorCommand(), workerCommand(), statusCommand(), evalCommand(), predictCommand(), modelCommand(),
		checkpointCommand(), dataCommand(), benchCommand(), simulateCommand(), certsCommand(), soakCommand(), experimentCommand())
	return cmd
}
