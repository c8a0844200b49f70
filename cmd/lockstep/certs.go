package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/internal/tlsconf"
)

func certsCommand() *cobra.Command {
	var hosts []string
	var from string
	var days int
	cmd := &cobra.Command{
		Use:   "certs DIR --host NAME[,NAME...]",
		Short: "Make the certificates that machines of a cluster know each other by",
		Long: `Makes a folder for --tls: a CA, a certificate of this machine, and a key for gossip. With --from, makes the folder
of a further machine under the CA of the first; copy it there, and keep the first folder's ca-key.pem to yourself.`,
		Example: `  lockstep certs certs/node1 --host node1,10.0.0.1
  lockstep certs certs/node2 --from certs/node1 --host node2,10.0.0.2`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			valid := time.Duration(days) * 24 * time.Hour
			var err error
			if from == "" {
				err = tlsconf.Generate(args[0], hosts, valid)
			} else {
				err = tlsconf.Issue(from, args[0], hosts, valid)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: good for %v, %d days; use it with --tls %s\n", args[0], hosts, days, args[0])
			return err
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&hosts, "host", nil, "names and addresses under which others reach the machine")
	f.StringVar(&from, "from", "", "folder of the first machine, whose CA signs")
	f.IntVar(&days, "days", 365, "validity in days")
	return cmd
}
