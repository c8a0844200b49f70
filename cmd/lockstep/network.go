package main

import (
	"crypto/tls"
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lockstep-ml/lockstep/internal/tlsconf"
)

// network is how a process may speak to others: the --tls, --tls-name and --insecure flags, and what they lead to.
type network struct {
	dir      string
	name     string // that peers' certificates must carry; empty: the host dialled
	insecure bool
	identity *tlsconf.Identity // nil: in clear
}

func (n *network) addFlags(f *pflag.FlagSet) {
	f.StringVar(&n.dir, "tls", "", "folder with this machine's certificate (see lockstep certs); needed off loopback")
	f.StringVar(&n.name, "tls-name", "", "name that every certificate of the cluster carries, to be checked instead of the host dialled: for machines whose addresses nobody knows beforehand")
	f.BoolVar(&n.insecure, "insecure", false, "speak in clear, and to anyone, off loopback too")
}

// open loads the identity and refuses addresses that may not be used without one.
func (n *network) open(addresses ...string) error {
	var errs []error
	for _, a := range addresses {
		if a == "" {
			continue
		}
		if err := tlsconf.CheckBind(a, n.dir != "", n.insecure); err != nil {
			errs = append(errs, err)
		}
	}
	if n.dir == "" || len(errs) > 0 {
		return errors.Join(errs...)
	}
	id, err := tlsconf.Load(n.dir)
	if err != nil {
		return fmt.Errorf("--tls %s: %w", n.dir, err)
	}
	n.identity = id
	return nil
}

func (n *network) server() credentials.TransportCredentials {
	if n.identity == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(n.identity.Server())
}

func (n *network) client() credentials.TransportCredentials {
	if n.identity == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(n.clientTLS())
}

// clientTLS is for dialling members; there is an identity.
func (n *network) clientTLS() *tls.Config {
	c := n.identity.Client()
	c.ServerName = n.name
	return c
}

// gossipKey encrypts the gossip; nil leaves it in clear.
func (n *network) gossipKey() []byte {
	if n.identity == nil {
		return nil
	}
	return n.identity.GossipKey()
}

// telemetryTLS protects traces off loopback.
func (n *network) telemetryTLS(endpoint string) *tls.Config {
	if n.identity == nil || tlsconf.IsLoopback(endpoint) {
		return nil
	}
	return n.identity.Client()
}
