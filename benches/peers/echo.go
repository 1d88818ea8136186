// An echo server with a goroutine for every client.
package main

import (
	"fmt"
	"log"
	"net"
)

const bufferBytes = 64 * 1024

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening on", listener.Addr())
	for {
		// Go sets TCP_NODELAY on every connection.
		client, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go echo(client)
	}
}

// Echoes until the client closes its side or the connection fails; errors are ignored.
func echo(client net.Conn) {
	defer client.Close()
	buffer := make([]byte, bufferBytes)
	for {
		count, err := client.Read(buffer)
		if count > 0 {
			upper(buffer[:count])
			if _, err := client.Write(buffer[:count]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func upper(bytes []byte) {
	for i, b := range bytes {
		if b-'a' < 26 {
			bytes[i] = b - 32
		}
	}
}
