//! A broker that knows two requests, `ApiVersions` and Metadata in their oldest forms, over a real socket.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
};

use bytes::BufMut;

const METADATA: u16 = 3;
const API_VERSIONS: u16 = 18;
const UNSUPPORTED_VERSION: u16 = 35;

/// Starts a broker with no topic, which listens until the process ends; gives its address.
pub fn broker() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            // The client's end of the connection ends it.
            thread::spawn(move || serve(socket, address.port()));
        }
    });
    address
}

fn serve(mut socket: TcpStream, port: u16) -> io::Result<()> {
    loop {
        let mut size = [0; 4];
        socket.read_exact(&mut size)?;
        let mut request = vec![0; usize::try_from(u32::from_be_bytes(size)).unwrap()];
        socket.read_exact(&mut request)?;
        let number = |at: usize| u16::from_be_bytes([request[at], request[at + 1]]);
        let mut answer = vec![0; 4];
        answer.put_slice(&request[4..8]);
        match number(0) {
            API_VERSIONS => api_versions(&mut answer, number(2)),
            METADATA => metadata(&mut answer, port),
            other => panic!("a request with API key {other}"),
        }
        let size = u32::try_from(answer.len() - 4).unwrap();
        answer[..4].copy_from_slice(&size.to_be_bytes());
        socket.write_all(&answer)?;
    }
}

fn api_versions(answer: &mut Vec<u8>, version: u16) {
    answer.put_u16(if version == 0 { 0 } else { UNSUPPORTED_VERSION });
    answer.put_u32(2);
    for (key, newest) in [(METADATA, 1), (API_VERSIONS, 0)] {
        answer.put_u16(key);
        answer.put_u16(0);
        answer.put_u16(newest);
    }
}

/// Version 1: one broker, which is the controller, and no topic.
fn metadata(answer: &mut Vec<u8>, port: u16) {
    let host = "127.0.0.1";
    answer.put_u32(1);
    answer.put_u32(1);
    answer.put_u16(u16::try_from(host.len()).unwrap());
    answer.put_slice(host.as_bytes());
    answer.put_u32(port.into());
    answer.put_i16(-1);
    answer.put_u32(1);
    answer.put_u32(0);
}
