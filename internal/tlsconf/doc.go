// Package tlsconf decides who may speak to whom. On this machine's loopback anyone may, in clear; anywhere else both sides of a
// connection show a certificate of the cluster's own CA (mutual TLS 1.3), and gossip is encrypted with a key of the cluster.
//
// A node's identity is a folder of four files: ca.pem (the CA's certificate), cert.pem and key.pem (the node's certificate, good for
// serving and for dialling, and its private key) and gossip.key (32 bytes in base64). Generate makes such a folder, with a new CA,
// whose private key it puts in ca-key.pem; that one is for Issue, which makes the folder of a further machine, and no node needs it.
//
// Whoever binds or dials asks CheckBind first, and loads the identity once, at start:
//
//	if err := tlsconf.CheckBind(addr, dir != "", insecure); err != nil {
//		return err // says what to do
//	}
//	id, err := tlsconf.Load(dir)
//	creds := credentials.NewTLS(id.Server())
//
// A dialler leaves ServerName empty: it is then the host dialled, and must be among the hosts of the certificate met there.
package tlsconf
