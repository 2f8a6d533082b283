// SPDX-License-Identifier: GPL-3.0-or-later

// etcd as k3s embeds it: the server with etcd's own flags, and, as `etcd admin`, what k3s does to a running or stored cluster.
//
// etcd admin [--cacert F --cert F --key F] --endpoint URL COMMAND [ARG…]; answers are JSON on standard output.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	clientsnapshot "go.etcd.io/etcd/client/v3/snapshot"
	"go.etcd.io/etcd/etcdutl/v3/snapshot"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"go.uber.org/zap"
)

const (
	dialTimeout = 2 * time.Second
	callTimeout = 10 * time.Second
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "admin" {
		if err := admin(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	etcdmain.Main(os.Args)
}

func admin(arguments []string) error {
	var security transport.TLSInfo
	flags := flag.NewFlagSet("etcd admin", flag.ExitOnError)
	endpoint := flags.String("endpoint", "", "client URL of the datastore")
	flags.StringVar(&security.TrustedCAFile, "cacert", "", "")
	flags.StringVar(&security.CertFile, "cert", "", "")
	flags.StringVar(&security.KeyFile, "key", "", "")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	words := flags.Args()
	if len(words) == 0 {
		return fmt.Errorf("no command")
	}
	if words[0] == "restore" {
		return restore(words[1:])
	}
	config := clientv3.Config{Endpoints: []string{*endpoint}, DialTimeout: dialTimeout, Logger: zap.NewNop()}
	if security.CertFile != "" {
		tls, err := security.ClientConfig()
		if err != nil {
			return err
		}
		config.TLS = tls
	}
	if words[0] == "snapshot" {
		_, err := clientsnapshot.SaveWithVersion(context.Background(), zap.NewNop(), config, words[1])
		return err
	}
	client, err := clientv3.New(config)
	if err != nil {
		return err
	}
	defer client.Close()
	if words[0] == "migrate" {
		return migrate(client, words[1])
	}
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	return call(ctx, client, *endpoint, words[0], words[1:])
}

func call(ctx context.Context, client *clientv3.Client, endpoint, command string, words []string) error {
	switch command {
	case "members":
		list, err := client.MemberList(ctx)
		return answer(list, err)
	case "status":
		status, err := client.Status(ctx, endpoint)
		return answer(status, err)
	case "add-learner":
		added, err := client.MemberAddAsLearner(ctx, words)
		return answer(added, err)
	case "promote", "remove", "move":
		id, err := strconv.ParseUint(words[0], 10, 64)
		if err != nil {
			return err
		}
		if command == "promote" {
			_, err = client.MemberPromote(ctx, id)
		} else if command == "remove" {
			_, err = client.MemberRemove(ctx, id)
		} else {
			_, err = client.MemberUpdate(ctx, id, words[1:])
		}
		return err
	case "get":
		found, err := client.Get(ctx, words[0])
		if err == nil && len(found.Kvs) > 0 {
			_, err = os.Stdout.Write(found.Kvs[0].Value)
		}
		return err
	case "keys":
		found, err := client.Get(ctx, words[0], clientv3.WithRange(clientv3.GetPrefixRangeEnd(words[0])))
		if err != nil {
			return err
		}
		keys := []string{}
		for _, one := range found.Kvs {
			keys = append(keys, string(one.Key))
		}
		return answer(keys, nil)
	case "put":
		value, err := io.ReadAll(os.Stdin)
		if err != nil {
			return err
		}
		return put(ctx, client, words[0], string(value))
	case "delete":
		return remove(ctx, client, words[0])
	}
	return fmt.Errorf("unknown command %s", command)
}

func answer(object any, err error) error {
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(object)
}

// put and remove use the transactions that kine understands; it knows no plain Put.
func put(ctx context.Context, client *clientv3.Client, key, value string) error {
	made, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
	if err != nil || made.Succeeded {
		return err
	}
	found, err := client.Get(ctx, key)
	if err != nil {
		return err
	}
	if len(found.Kvs) == 0 {
		return fmt.Errorf("%s changed meanwhile", key)
	}
	revision := found.Kvs[0].ModRevision
	done, err := client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(key)).Commit()
	if err == nil && !done.Succeeded {
		err = fmt.Errorf("%s changed meanwhile", key)
	}
	return err
}

func remove(ctx context.Context, client *clientv3.Client, key string) error {
	found, err := client.Get(ctx, key)
	if err != nil || len(found.Kvs) == 0 {
		return err
	}
	_, err = client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", found.Kvs[0].ModRevision)).
		Then(clientv3.OpDelete(key)).Else(clientv3.OpGet(key)).Commit()
	return err
}

// migrate copies what a kine at source (unix:///…) holds into the client's etcd, as k3s does when a server on SQLite is given cluster-init.
func migrate(client *clientv3.Client, source string) error {
	old, err := clientv3.New(clientv3.Config{Endpoints: []string{source}, DialTimeout: dialTimeout, Logger: zap.NewNop()})
	if err != nil {
		return err
	}
	defer old.Close()
	for _, prefix := range []string{"/registry/", "/bootstrap/"} {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		found, err := old.Get(ctx, prefix, clientv3.WithRange(clientv3.GetPrefixRangeEnd(prefix)))
		for i := 0; err == nil && i < len(found.Kvs); i++ {
			_, err = client.Put(ctx, string(found.Kvs[i].Key), string(found.Kvs[i].Value))
		}
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// restore: SNAPSHOT FOLDER NAME PEER-URL writes the data folder of a new cluster of one.
func restore(words []string) error {
	if len(words) != 4 {
		return fmt.Errorf("restore SNAPSHOT FOLDER NAME PEER-URL")
	}
	return snapshot.NewV3(zap.NewNop()).Restore(snapshot.RestoreConfig{
		SnapshotPath:        words[0],
		OutputDataDir:       words[1],
		Name:                words[2],
		PeerURLs:            []string{words[3]},
		InitialCluster:      words[2] + "=" + words[3],
		InitialClusterToken: "etcd-cluster",
	})
}
