/*
 * POSIX access control lists: what the kernel is told when it asks for them, and what it says when
 * it sets one. It checks permissions with them itself.
 */

/* <linux/fuse.h> of 5.13, where a system has an older one. */
#define SHIM_INIT_SETXATTR_EXT (1u << 29) /* FUSE_SETXATTR_EXT */
#define SHIM_SETXATTR_KILL_SGID 1u	  /* FUSE_SETXATTR_ACL_KILL_SGID */
#define SETXATTR_SHORT (2 * sizeof(uint32_t)) /* struct fuse_setxattr_in as libfuse knows it, */
#define SETXATTR_LONG (4 * sizeof(uint32_t))  /* and as it comes: flags and padding follow */

static int has_setxattr_ext; /* do requests SETXATTR come in the long form? */
static int kills_set_group_id; /* does the one read last ask for the bit to be cleared? */
static int has_acls; /* has a file ever been given an access control list? */

static int is_acl(const char *name)
{
	return strcmp(name, "system.posix_acl_access") == 0 ||
	       strcmp(name, "system.posix_acl_default") == 0;
}

/* Make a SETXATTR of the long form one of the short form. How long it is now. */
static ssize_t shorten_setxattr(struct fuse_in_header *head, ssize_t got)
{
	char *body = (char *)(head + 1);
	const ssize_t rest = got - (ssize_t)(sizeof *head + SETXATTR_LONG);
	uint32_t flags;

	kills_set_group_id = 0;
	if (!has_setxattr_ext || rest < 0)
		return got;
	memcpy(&flags, body + SETXATTR_SHORT, sizeof flags);
	kills_set_group_id = !!(flags & SHIM_SETXATTR_KILL_SGID);
	memmove(body + SETXATTR_SHORT, body + SETXATTR_LONG, (size_t)rest);
	got -= (ssize_t)(SETXATTR_LONG - SETXATTR_SHORT);
	head->len = (uint32_t)got;
	return got;
}

/* Does the SETXATTR that is being handled ask for the set-group-ID bit to be cleared? */
static int shim_kills_set_group_id(void)
{
	return kills_set_group_id;
}
