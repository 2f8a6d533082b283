// SPDX-License-Identifier: GPL-3.0-or-later

// workload is the program of the lab's container images: it behaves as a service of a Compose stack can, well or badly.
//
//	serve [-health ok|bad|late:SECONDS|file:PATH] [-port N] [-crash-if FILE]
//	                       HTTP: /version, /health, /env, /read?path=FILE; /sicken makes /health bad until the process ends
//	health [-port N]       exit code 0 when /health says 200: for `healthcheck:`
//	crash [SECONDS [CODE]] end badly after a while
//	once [SECONDS [CODE]]  end after a while, well unless told otherwise
//	hang                   run, and ignore the request to stop
//	env [NAME...]          print the environment, or these variables, and end
//	read FILE...           print files and end
//	standin PORT[,PORT]    in the place of another image: serve there, whatever else is asked for
//
// Called as curl, wget or sh (for health checks of images it stands in for), it asks the first address among its arguments.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// versionFile is what tells two images of the same name apart.
const versionFile = "/version"

func main() {
	commands := map[string]func([]string) error{
		"serve": serve, "health": health, "crash": crash, "once": once, "hang": hang, "env": env, "read": read, "standin": standin,
	}
	switch filepath.Base(os.Args[0]) {
	case "curl", "wget", "sh":
		if ask(strings.Join(os.Args[1:], " ")) != nil {
			os.Exit(1)
		}
		return
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "workload: the first argument is one of serve, health, crash, once, hang, env, read, standin")
		os.Exit(64)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

func serve(arguments []string) error {
	flags := flag.NewFlagSet("serve", flag.ExitOnError)
	state := flags.String("health", "ok", "ok, bad, late:SECONDS or file:PATH (healthy while it exists)")
	port := flags.Int("port", 8080, "port to listen on")
	fatal := flags.String("crash-if", "", "file whose presence at the start ends the process")
	flags.Parse(arguments)
	if _, err := os.Stat(*fatal); *fatal != "" && err == nil {
		return errors.New(*fatal + " is there")
	}
	healthy, err := judge(*state)
	if err != nil {
		return err
	}
	var sick atomic.Bool
	http.HandleFunc("/sicken", func(http.ResponseWriter, *http.Request) { sick.Store(true) })
	http.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if sick.Load() || !healthy() {
			http.Error(w, "bad", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	http.HandleFunc("/env", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, strings.Join(os.Environ(), "\n")) })
	http.HandleFunc("/read", func(w http.ResponseWriter, r *http.Request) {
		data, err := os.ReadFile(r.URL.Query().Get("path"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		w.Write(data)
	})
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		data, _ := os.ReadFile(versionFile)
		w.Write(data)
	})
	failed := make(chan error, 1)
	go func() { failed <- http.ListenAndServe(":"+strconv.Itoa(*port), nil) }()
	return until(failed)
}

// judge returns what /health answers by.
func judge(state string) (func() bool, error) {
	kind, detail, _ := strings.Cut(state, ":")
	switch kind {
	case "ok", "bad":
		return func() bool { return kind == "ok" }, nil
	case "late":
		seconds, err := strconv.ParseFloat(detail, 64)
		if err != nil {
			return nil, err
		}
		var ready atomic.Bool
		time.AfterFunc(duration(seconds), func() { ready.Store(true) })
		return ready.Load, nil
	case "file":
		return func() bool { _, err := os.Stat(detail); return err == nil }, nil
	}
	return nil, errors.New("no such health: " + state)
}

func health(arguments []string) error {
	flags := flag.NewFlagSet("health", flag.ExitOnError)
	port := flags.Int("port", 8080, "port of the server")
	flags.Parse(arguments)
	return ask("http://127.0.0.1:" + strconv.Itoa(*port) + "/health")
}

// ask requests the first address in a text, if there is one.
func ask(text string) error {
	address := regexp.MustCompile(`http://[^\s"'|;&]+`).FindString(text)
	if address == "" {
		return nil
	}
	client := http.Client{Timeout: 2 * time.Second}
	answer, err := client.Get(address)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}

// standin serves on the ports of its first argument until it is told to stop. The others are those of the image it stands in for.
func standin(arguments []string) error {
	if len(arguments) == 0 {
		return errors.New("no ports")
	}
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		data, _ := os.ReadFile(versionFile)
		w.Write(data)
	})
	ports := strings.Split(arguments[0], ",")
	failed := make(chan error, len(ports))
	for _, port := range ports {
		go func() { failed <- http.ListenAndServe(":"+port, nil) }()
	}
	return until(failed)
}

// until returns when the process is told to stop, or with the first failure.
func until(failed <-chan error) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	select {
	case err := <-failed:
		return err
	case <-stop:
		return nil
	}
}

func crash(arguments []string) error { return end(arguments, 1) }

func once(arguments []string) error { return end(arguments, 0) }

// end waits the seconds of the first argument (0) and leaves with the exit code of the second one.
func end(arguments []string, code int) error {
	values := []float64{0, float64(code)}
	for i, text := range arguments {
		if i >= len(values) {
			return errors.New("more than SECONDS and CODE")
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return err
		}
		values[i] = value
	}
	time.Sleep(duration(values[0]))
	os.Exit(int(values[1]))
	return nil
}

func hang([]string) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	for {
		time.Sleep(time.Hour)
	}
}

func env(names []string) error {
	if len(names) == 0 {
		fmt.Println(strings.Join(os.Environ(), "\n"))
	}
	for _, name := range names {
		fmt.Printf("%s=%s\n", name, os.Getenv(name))
	}
	return nil
}

func read(files []string) error {
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		os.Stdout.Write(data)
	}
	return nil
}

func duration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }
