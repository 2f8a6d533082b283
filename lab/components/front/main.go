// SPDX-License-Identifier: GPL-3.0-or-later

// front serves the TLS ports that k3s itself serves.
//
// On a server, port 6443: /ping, /cacerts, /v1-k3s/… and /db/… go to the supervisor (plain HTTP on a unix socket), everything else to
// kube-apiserver on a loopback address, with a client certificate's identity handed over by the request header protocol.
//
// On an agent (-balance FILE), port 6444: TCP connections go to the first server of FILE that answers.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	dialTimeout = 2 * time.Second
	soReuseport = 0xf
)

func main() {
	folder := flag.String("tls", "/var/lib/rancher/k3s/server/tls", "folder of the server's certificates")
	address := flag.String("listen", ":6443", "address to listen on")
	apiserver := flag.String("apiserver", "127.0.0.2:6443", "kube-apiserver")
	supervisor := flag.String("supervisor", "/run/k3s/supervisor.sock", "the supervisor's socket")
	balance := flag.String("balance", "", "file with the servers to balance over, instead of serving")
	flag.Parse()
	if *balance != "" {
		log.Fatal(newBalancer(*balance).serve(*address))
	}
	log.Fatal(serve(*folder, *address, *apiserver, *supervisor))
}

// serve is a server's side. The apiserver shares the port on its own loopback address, so both need SO_REUSEPORT.
func serve(folder, address, apiserver, supervisor string) error {
	router, err := newRouter(folder, apiserver, supervisor)
	if err != nil {
		return err
	}
	certificate, err := tls.LoadX509KeyPair(folder+"/serving-kube-apiserver.crt", folder+"/serving-kube-apiserver.key")
	if err != nil {
		return err
	}
	shared := net.ListenConfig{Control: func(_, _ string, connection syscall.RawConn) error {
		var failed error
		err := connection.Control(func(fd uintptr) { failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, soReuseport, 1) })
		if err != nil {
			return err
		}
		return failed
	}}
	listener, err := shared.Listen(context.Background(), "tcp4", address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           router,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequestClientCert},
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	return server.ServeTLS(listener, "", "")
}

type router struct {
	clients    *x509.CertPool
	supervisor *httputil.ReverseProxy
	trusted    *httputil.ReverseProxy // tells the apiserver who asks
	plain      *httputil.ReverseProxy // the request itself says who asks
}

func newRouter(folder, apiserver, supervisor string) (*router, error) {
	clients, err := pool(folder + "/client-ca.crt")
	if err != nil {
		return nil, err
	}
	servers, err := pool(folder + "/server-ca.crt")
	if err != nil {
		return nil, err
	}
	own, err := tls.LoadX509KeyPair(folder+"/client-auth-proxy.crt", folder+"/client-auth-proxy.key")
	if err != nil {
		return nil, err
	}
	local := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "supervisor"})
	local.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", supervisor)
	}}
	local.ErrorHandler = unavailable
	return &router{
		clients:    clients,
		supervisor: local,
		trusted:    toAPI(apiserver, &tls.Config{RootCAs: servers, ServerName: "127.0.0.1", Certificates: []tls.Certificate{own}}),
		plain:      toAPI(apiserver, &tls.Config{RootCAs: servers, ServerName: "127.0.0.1"}),
	}, nil
}

func pool(file string) (*x509.CertPool, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	certificates := x509.NewCertPool()
	certificates.AppendCertsFromPEM(data)
	return certificates, nil
}

func toAPI(apiserver string, config *tls.Config) *httputil.ReverseProxy {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: apiserver})
	proxy.FlushInterval = -1 // a watch is a response that never ends
	proxy.ErrorHandler = unavailable
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	proxy.Transport = &http.Transport{
		TLSClientConfig: config,
		// HTTP/1.1, which can be upgraded for exec and port-forward
		TLSNextProto:        map[string]func(string, *tls.Conn) http.RoundTripper{},
		MaxIdleConnsPerHost: 64,
		IdleConnTimeout:     time.Minute,
	}
	return proxy
}

func unavailable(writer http.ResponseWriter, _ *http.Request, _ error) {
	http.Error(writer, "apiserver not ready", http.StatusServiceUnavailable)
}

func (r *router) ServeHTTP(writer http.ResponseWriter, request *http.Request) {
	for name := range request.Header {
		if strings.HasPrefix(name, "X-Remote-") {
			request.Header.Del(name) // nobody may claim an identity in the header that the front itself sets
		}
	}
	path := request.URL.Path
	switch {
	case path == "/ping" || path == "/cacerts" || strings.HasPrefix(path, "/v1-k3s/") || strings.HasPrefix(path, "/db/"):
		r.supervisor.ServeHTTP(writer, request)
	case len(request.TLS.PeerCertificates) > 0 && request.Header.Get("Authorization") == "":
		if !r.identify(request) {
			http.Error(writer, "Unauthorized", http.StatusUnauthorized)
			return
		}
		r.trusted.ServeHTTP(writer, request)
	default:
		r.plain.ServeHTTP(writer, request)
	}
}

// identify puts the client certificate's identity into the headers; false for a certificate that is not the cluster's.
func (r *router) identify(request *http.Request) bool {
	certificate := request.TLS.PeerCertificates[0]
	between := x509.NewCertPool()
	for _, one := range request.TLS.PeerCertificates[1:] {
		between.AddCert(one)
	}
	uses := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: r.clients, Intermediates: between, KeyUsages: uses}); err != nil {
		return false
	}
	request.Header.Set("X-Remote-User", certificate.Subject.CommonName)
	for _, group := range certificate.Subject.Organization {
		request.Header.Add("X-Remote-Group", group)
	}
	return true
}

// balancer is an agent's side: k3s's agent load balancer. Its file has the server of the configuration and those the cluster told of.
type balancer struct {
	file    string
	mutex   sync.Mutex
	changed time.Time
	servers []string
}

type servers struct {
	ServerURL       string
	ServerAddresses []string
}

func newBalancer(file string) *balancer { return &balancer{file: file} }

func (b *balancer) serve(address string) error {
	listener, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go b.forward(connection)
	}
}

func (b *balancer) forward(client net.Conn) {
	defer client.Close()
	for _, address := range b.addresses() {
		server, err := net.DialTimeout("tcp4", address, dialTimeout)
		if err != nil {
			continue
		}
		b.prefer(address)
		splice(client, server)
		return
	}
}

// addresses are those of the file, the one that answered last first.
func (b *balancer) addresses() []string {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	if info, err := os.Stat(b.file); err == nil && !info.ModTime().Equal(b.changed) {
		var known servers
		if data, err := os.ReadFile(b.file); err == nil && json.Unmarshal(data, &known) == nil {
			b.changed = info.ModTime()
			b.servers = known.ServerAddresses
			if parsed, err := url.Parse(known.ServerURL); err == nil {
				b.servers = append(b.servers, parsed.Host)
			}
		}
	}
	return append([]string{}, b.servers...)
}

func (b *balancer) prefer(address string) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	ordered := []string{address}
	for _, one := range b.servers {
		if one != address {
			ordered = append(ordered, one)
		}
	}
	b.servers = ordered
}

func splice(client, server net.Conn) {
	defer server.Close()
	done := make(chan struct{}, 2)
	pipe := func(to, from net.Conn) {
		io.Copy(to, from)
		if half, ok := to.(*net.TCPConn); ok {
			half.CloseWrite()
		}
		done <- struct{}{}
	}
	go pipe(server, client)
	go pipe(client, server)
	<-done
	<-done
}
