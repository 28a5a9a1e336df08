//! The functions of the system interface that guests call: what [the module's table](super) says, and nothing
//! else.

use std::net::IpAddr;
use std::sync::Arc;
use std::vec;

use operator::{Failure, FailureKind, text};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::LinkOptions;
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorType, DirectoryEntryStream, ErrorCode as FileErrorCode, Host as _,
    HostDescriptor as _, NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::bindings::sockets::network::{
    ErrorCode, Host as _, IpAddress, IpAddressFamily,
};
use wasmtime_wasi::p2::bindings::sockets::tcp_create_socket;
use wasmtime_wasi::p2::{Network as NetworkResource, Pollable, UdpSocket, subscribe};
use wasmtime_wasi::sockets::WasiSocketsView as _;

use super::guest::Guest;
use super::network::Lookup;

/// Adds WASI 0.2 to a linker.
///
/// The asynchronous variant, so that a guest that sleeps or waits for a socket can be stopped at its
/// time limit: interruption points do not help while it waits in the host.
pub(super) fn link(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut options = LinkOptions::default();
    // Not stable yet, but newer tools use it.
    options.network_error_code(true);
    wasmtime_wasi::p2::add_to_linker_with_options_async(linker, &options)?;
    linker.allow_shadowing(true);
    link_name_lookup(linker)?;
    link_sockets(linker)?;
    link_filesystem(&mut linker.instance("wasi:filesystem/types@0.2.12")?)?;
    linker.allow_shadowing(false);
    Ok(())
}

/// Adds the functions of `wasi:filesystem/types` that differ from Wasmtime's.
fn link_filesystem(filesystem: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    filesystem.func_wrap_async(
        "[method]descriptor.read-directory",
        |store, (directory,)| Box::new(read_directory(store, directory)),
    )?;
    filesystem.func_wrap_async(
        "[method]descriptor.open-at",
        |store, (directory, path_flags, path, open_flags, flags)| {
            Box::new(open_at(
                store, directory, path_flags, path, open_flags, flags,
            ))
        },
    )?;
    // What changes a directory says so if it is granted for reading only.
    macro_rules! change {
        ($name:literal, $method:ident, $changed:ident, $($value:ident: $type:ty),*) => {
            filesystem.func_wrap_async(
                concat!("[method]descriptor.", $name),
                |mut store: StoreContextMut<'_, Guest>,
                 (directory, $($value),*): (Resource<Descriptor>, $($type),*)| {
                    Box::new(async move {
                        let path = $changed.clone();
                        let mut view = store.data_mut().filesystem();
                        let changed = match view.$method(directory, $($value),*).await {
                            Ok(()) => Ok(()),
                            Err(error) => Err(view.convert_error_code(error)?),
                        };
                        if matches!(changed, Err(FileErrorCode::NotPermitted)) {
                            deny_change(store.data(), &path);
                        }
                        Ok((changed,))
                    })
                },
            )?;
        };
    }
    change!("create-directory-at", create_directory_at, path, path: String);
    change!("remove-directory-at", remove_directory_at, path, path: String);
    change!("unlink-file-at", unlink_file_at, path, path: String);
    change!("symlink-at", symlink_at, to, from: String, to: String);
    change!("rename-at", rename_at, to, from: String, directory_of: Resource<Descriptor>, to: String);
    change!(
        "link-at", link_at, to,
        flags: PathFlags, from: String, directory_of: Resource<Descriptor>, to: String
    );
    change!(
        "set-times-at", set_times_at, path,
        flags: PathFlags, path: String, accessed: NewTimestamp, modified: NewTimestamp
    );
    Ok(())
}

/// A change of something below a granted directory was refused. Only a directory that is granted for reading
/// explains it.
fn deny_change(guest: &Guest, path: &str) {
    let mut read_only = guest.granted.dirs.iter().filter(|dir| !dir.write);
    if let Some(dir) = read_only.next() {
        let grant = format!(
            "grants = {{ dirs = [{{ guest = {:?}, write = true, … }}] }}",
            dir.guest
        );
        let what = format!("changing `{}`", text::name(path));
        guest.console.denied(&what, Some(&grant));
    }
}

/// Adds the functions that open sockets: without a grant there are none, and it is said why.
fn link_sockets(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut tcp = linker.instance("wasi:sockets/tcp-create-socket@0.2.12")?;
    tcp.func_wrap(
        "create-tcp-socket",
        |mut store: StoreContextMut<'_, Guest>, (family,): (IpAddressFamily,)| {
            let guest = store.data_mut();
            if guest.granted.network.is_empty() {
                guest.console.denied("opening a TCP socket", Some(NETWORK));
                return Ok((Err(ErrorCode::AccessDenied),));
            }
            let mut view = guest.sockets();
            match tcp_create_socket::Host::create_tcp_socket(&mut view, family) {
                Ok(socket) => Ok((Ok(socket),)),
                Err(error) => Ok((Err(view.convert_error_code(error)?),)),
            }
        },
    )?;
    let mut udp = linker.instance("wasi:sockets/udp-create-socket@0.2.12")?;
    udp.func_wrap(
        "create-udp-socket",
        |store: StoreContextMut<'_, Guest>, (_,): (IpAddressFamily,)| {
            store.data().console.denied("opening a UDP socket", None);
            Ok((Err::<Resource<UdpSocket>, _>(ErrorCode::AccessDenied),))
        },
    )
}

/// What the job file has to say for a guest that may reach a server.
const NETWORK: &str = "grants = { network = [\"host:port\"] }";

/// Opens a file or a directory, and nothing else: to open a pipe waits for who opens its other end, in a
/// thread that nothing stops, with a descriptor that stays when the call has failed.
async fn open_at(
    mut store: StoreContextMut<'_, Guest>,
    directory: Resource<Descriptor>,
    path_flags: PathFlags,
    path: String,
    open_flags: OpenFlags,
    flags: DescriptorFlags,
) -> wasmtime::Result<(Result<Resource<Descriptor>, FileErrorCode>,)> {
    let mut view = store.data_mut().filesystem();
    let looked_in = Resource::new_borrow(directory.rep());
    let found = view.stat_at(looked_in, path_flags, path.clone()).await;
    // What does not exist may be made.
    if let Ok(found) = found
        && !matches!(
            found.type_,
            DescriptorType::RegularFile | DescriptorType::Directory | DescriptorType::SymbolicLink
        )
    {
        return Ok((Err(FileErrorCode::Unsupported),));
    }
    let opened = view
        .open_at(directory, path_flags, path.clone(), open_flags, flags)
        .await;
    let error = match opened {
        Ok(opened) => return Ok((Ok(opened),)),
        Err(error) => view.convert_error_code(error)?,
    };
    let changes = open_flags.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE)
        || flags.intersects(DescriptorFlags::WRITE | DescriptorFlags::MUTATE_DIRECTORY);
    if changes && matches!(error, FileErrorCode::NotPermitted) {
        deny_change(store.data(), &path);
    }
    Ok((Err(error),))
}

/// How many lists of directories an instance may hold: the host reads a directory as a whole, and a
/// directory may have millions of names.
const LISTS_MAX: usize = 4;

/// Lists a directory, unless too many lists are held already.
async fn read_directory(
    mut store: StoreContextMut<'_, Guest>,
    directory: Resource<Descriptor>,
) -> wasmtime::Result<(Result<Resource<DirectoryEntryStream>, FileErrorCode>,)> {
    let guest = store.data_mut();
    let mut lists = std::mem::take(&mut guest.lists);
    let table = guest.ctx().table;
    lists.retain(|list| {
        let list = Resource::<DirectoryEntryStream>::new_borrow(*list);
        table.get(&list).is_ok()
    });
    guest.lists = lists;
    if guest.lists.len() >= LISTS_MAX {
        let message = format!(
            "`{}` held lists of more than {LISTS_MAX} directories at once; read one to its end and drop it before \
             the next",
            guest.phase.name()
        );
        return Err(Failure::new(FailureKind::MemoryLimit, message).into());
    }
    let mut view = guest.filesystem();
    match view.read_directory(directory).await {
        Ok(list) => {
            guest.lists.push(list.rep());
            Ok((Ok(list),))
        }
        Err(error) => Ok((Err(view.convert_error_code(error)?),)),
    }
}

/// The addresses of a name that a guest has yet to get.
///
/// Wasmtime's own kind asks the resolver itself. Its answer may differ from the one that
/// [`Network`](super::network::Network) got and grants.
struct Addresses(vec::IntoIter<IpAddr>);

#[wasmtime_wasi::async_trait]
impl Pollable for Addresses {
    async fn ready(&mut self) {}
}

/// Adds `wasi:sockets/ip-name-lookup` as a whole, in place of Wasmtime's.
fn link_name_lookup(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    let mut lookup = linker.instance("wasi:sockets/ip-name-lookup@0.2.12")?;
    lookup.resource(
        "resolve-address-stream",
        ResourceType::host::<Addresses>(),
        |mut store, number| {
            let addresses = Resource::<Addresses>::new_own(number);
            store.data_mut().ctx().table.delete(addresses)?;
            Ok(())
        },
    )?;
    lookup.func_wrap_async("resolve-addresses", |store, (network, name)| {
        Box::new(resolve_addresses(store, network, name))
    })?;
    lookup.func_wrap(
        "[method]resolve-address-stream.resolve-next-address",
        |mut store: StoreContextMut<'_, Guest>, (addresses,): (Resource<Addresses>,)| {
            let addresses = store.data_mut().ctx().table.get_mut(&addresses)?;
            let next = addresses.0.next().map(IpAddress::from);
            Ok((Ok::<_, ErrorCode>(next),))
        },
    )?;
    lookup.func_wrap(
        "[method]resolve-address-stream.subscribe",
        |mut store: StoreContextMut<'_, Guest>, (addresses,): (Resource<Addresses>,)| {
            Ok((subscribe(store.data_mut().ctx().table, addresses)?,))
        },
    )
}

/// Looks up the names that are granted and no others. The guest gets the addresses that it may connect to.
async fn resolve_addresses(
    mut store: StoreContextMut<'_, Guest>,
    network: Resource<NetworkResource>,
    name: String,
) -> wasmtime::Result<(Result<Resource<Addresses>, ErrorCode>,)> {
    // The resource is the right to ask.
    store.data_mut().ctx().table.get(&network)?;
    let granted = Arc::clone(&store.data().granted);
    let addresses = match granted.network.look_up(&name).await {
        Lookup::Found(addresses) => Addresses(addresses.into_iter()),
        refused @ (Lookup::NotGranted | Lookup::NotPublic) => {
            let key = match refused {
                Lookup::NotPublic => "private-network",
                _ => "network",
            };
            let shown = text::name(&name);
            let grant = format!("grants = {{ {key} = [\"{shown}:port\"] }}");
            let what = format!("looking up `{shown}`");
            store.data().console.denied(&what, Some(&grant));
            return Ok((Err(ErrorCode::AccessDenied),));
        }
        Lookup::Unknown => return Ok((Err(ErrorCode::NameUnresolvable),)),
        Lookup::Unanswered => return Ok((Err(ErrorCode::TemporaryResolverFailure),)),
    };
    let addresses = store.data_mut().ctx().table.push(addresses)?;
    Ok((Ok(addresses),))
}
