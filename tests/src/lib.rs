//! What MPSec's tests stand on: network namespaces, devices, crafted frames, traffic with known sums, and a guard around
//! the agent. Nothing here asks the agent's own code what is right.
//!
//! | to | use |
//! | --- | --- |
//! | declare a test, skip it with its reason | [`trial`], [`need`] |
//! | make namespaces, devices and networks | [`netns`], [`link`], [`topology`] |
//! | know frames and what must be said of them | [`frames`] |
//! | send and receive them, on a chosen CPU | [`send`], [`capture`], [`tuntap`], [`cpu`] |
//! | make bulk traffic of known size | [`bulk`] |
//! | make several paths, and talk MPTCP over them | [`paths`], [`mptcp`], [`crowd`] |
//! | make long lines that fail, and time a stream over them | [`wan`], [`stream`] |
//! | run the part of the agent that acts on that | [`keeper`] |
//! | know what crossed a path, and what the kernel says of it | [`wire`], [`tally`], [`sniffer`], [`ss`] |
//! | know what resets say, and reset what others talk | [`resets`] |
//! | encrypt what crosses it | [`xfrm`], [`layers`], [`charon`] |
//! | let tcpdump judge what crossed it | [`tcpdump`] |
//! | know how often the kernel enters a function | [`kprobe`] |
//! | open MPTCP sockets | [`mptcp_socket`] |
//! | run others' programs in control groups | [`cgroup`] |
//! | run the agent and read its metrics | [`agent`], [`http`], [`tls`], [`exposition`], [`counted`] |
//! | see and disturb what is attached to a device | [`hooks`], [`bpf`] |
//! | let Prometheus scrape it, and read dashboards as Grafana does | [`prometheus`], [`grafana`] |
//! | run a program on a terminal and read its screen | [`pty`], [`screen`] |
//! | wait without sleeping blindly | [`wait`] |

pub mod agent;
pub mod bpf;
pub mod bulk;
pub mod capture;
pub mod cgroup;
pub mod charon;
pub mod counted;
pub mod cpu;
pub mod crowd;
pub mod exposition;
pub mod frames;
pub mod grafana;
pub mod hooks;
pub mod http;
pub mod keeper;
pub mod kprobe;
pub mod layers;
pub mod link;
pub mod mptcp;
pub mod mptcp_socket;
pub mod need;
pub mod netns;
pub mod packet_socket;
pub mod paths;
pub mod privilege;
pub mod prometheus;
pub mod pty;
pub mod resets;
pub mod screen;
pub mod send;
pub mod signals;
pub mod sniffer;
pub mod ss;
pub mod stream;
pub mod tally;
pub mod tcpdump;
pub mod tls;
pub mod topology;
pub mod trial;
pub mod tuntap;
pub mod wait;
pub mod wan;
pub mod wire;
pub mod xfrm;
