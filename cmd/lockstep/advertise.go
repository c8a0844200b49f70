package main

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// advertised is what others dial to reach a bound address: its own host, or the one given.
func advertised(bound, host string) (string, error) {
	bhost, port, err := net.SplitHostPort(bound)
	if err != nil {
		return "", err
	}
	if host != "" {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		return net.JoinHostPort(host, port), nil
	}
	if everywhere(bhost) {
		return "", fmt.Errorf("listening on every interface (%s): say with --advertise HOST under which name or address others reach this machine", bound)
	}
	return bound, nil
}

// everywhere says whether a host to listen on stands for every interface.
func everywhere(host string) bool {
	ip := net.ParseIP(host)
	return host == "" || ip != nil && ip.IsUnspecified()
}

// reachable completes --advertise for a process that listens on every interface: a container has one address as a rule, which
// nobody knows before it runs. listen is HOST:PORT. With several addresses it is for the user to say which.
func reachable(listen, advertise string) (string, error) {
	host, _, err := net.SplitHostPort(listen)
	if err != nil || advertise != "" || !everywhere(host) {
		return advertise, nil // a bad address is explained where it is bound
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "", fmt.Errorf("listening on every interface (%s), and this machine's addresses are not to be had: give --advertise HOST: %w", listen, err)
	}
	only, all := onlyAddress(addrs)
	if only == "" {
		return "", fmt.Errorf("listening on every interface (%s): say with --advertise HOST under which name or address others reach this machine (it has %s)", listen, orNothing(all))
	}
	return only, nil
}

// onlyAddress gives the one address that other machines may dial, of version 4 if there is any; "" if there are several or none.
func onlyAddress(addrs []net.Addr) (only string, all []string) {
	var byVersion [2][]string
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().IsGlobalUnicast() {
			continue // loopback and link-local lead nowhere
		}
		version := 0
		if p.Addr().Is6() {
			version = 1
		}
		byVersion[version] = append(byVersion[version], p.Addr().String())
	}
	for _, have := range byVersion {
		if all = append(all, have...); only == "" && len(all) == len(have) && len(have) == 1 {
			only = have[0]
		}
	}
	return only, all
}

func orNothing(list []string) string {
	if len(list) == 0 {
		return "no address but its own loopback"
	}
	return strings.Join(list, ", ")
}
