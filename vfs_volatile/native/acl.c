/*
 * POSIX access control lists: what the kernel is told when it asks for them, and what it says when
 * it sets one. It checks permissions with them itself.
 */

/* <linux/fuse.h> of 5.13, where a system has an older one. */
#define SHIM_INIT_SETXATTR_EXT (1u << 29) /* FUSE_SETXATTR_EXT */
#define SHIM_SETXATTR_KILL_SGID 1u	  /* FUSE_SETXATTR_ACL_KILL_SGID */
#define SETXATTR_SHORT (2 * sizeof(uint32_t)) /* struct fuse_setxattr_in as libfuse knows it, */
#define SETXATTR_LONG (4 * sizeof(uint32_t))  /* and as it comes: flags and padding follow */

/* Defined by cffi from the declarations in build_shim.py. */
static void shim_on_get_acl(fuse_req_t, uint64_t ino, const char *name, size_t size);

static int wants_acls;	     /* set before the mount is made */
static int kills_set_group_id; /* does the one read last ask for the bit to be cleared? */
static int has_acls, root_has_acl; /* has a file been given one, ever? has the root? */

static int is_acl(const char *name)
{
	return strcmp(name, "system.posix_acl_access") == 0 ||
	       strcmp(name, "system.posix_acl_default") == 0;
}

/*
 * Answer a GETXATTR of a list. The kernel asks once for each file that is used by somebody else than
 * its owner, but for the root each time (since 6.18.42: what is older than FUSE_INIT stays
 * ACL_DONT_CACHE, linux/fs/posix_acl.c). As long as there is none, that need not cost more.
 */
static void get_acl(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	at_once = 1;
	if (ino == FUSE_ROOT_ID ? !root_has_acl : !has_acls)
		fuse_reply_err(req, wants_acls ? ENODATA : EOPNOTSUPP);
	else
		shim_on_get_acl(req, ino, name, size);
}

/* Refuse what is done to a list where there shall be none; is it so? */
static int refused_acl(fuse_req_t req, const char *name)
{
	if (wants_acls || !is_acl(name))
		return 0;
	at_once = 1;
	fuse_reply_err(req, EOPNOTSUPP);
	return 1;
}

/* Is what follows the header just as long as a SETXATTR of the short form? */
static int is_short_setxattr(const char *body, size_t length)
{
	uint32_t value;

	if (length <= SETXATTR_SHORT)
		return 1;
	memcpy(&value, body, sizeof value);
	length -= SETXATTR_SHORT;
	return strnlen(body + SETXATTR_SHORT, length) + 1 + value == length;
}

/*
 * Make a SETXATTR of the long form one of the short form. How long it is now.
 *
 * A first one comes in the short form, if the kernel made it before it had the answer to INIT.
 */
static ssize_t shorten_setxattr(struct fuse_in_header *head, ssize_t got)
{
	char *body = (char *)(head + 1);
	const ssize_t rest = got - (ssize_t)(sizeof *head + SETXATTR_LONG);
	uint32_t flags;

	kills_set_group_id = 0;
	if (rest < 0 || is_short_setxattr(body, (size_t)got - sizeof *head))
		return got;
	memcpy(&flags, body + SETXATTR_SHORT, sizeof flags);
	kills_set_group_id = !!(flags & SHIM_SETXATTR_KILL_SGID);
	memmove(body + SETXATTR_SHORT, body + SETXATTR_LONG, (size_t)rest);
	got -= (ssize_t)(SETXATTR_LONG - SETXATTR_SHORT);
	head->len = (uint32_t)got;
	return got;
}

/* Before the mount is made: there may be lists. */
static void shim_want_acls(void)
{
	wants_acls = 1;
}

/* Does the SETXATTR that is being handled ask for the set-group-ID bit to be cleared? */
static int shim_kills_set_group_id(void)
{
	return kills_set_group_id;
}
